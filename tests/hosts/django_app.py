"""A Django gateway in one file that mounts the plugin."""

from __future__ import annotations

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from bf_plugin import mount


def hello(request: HttpRequest) -> HttpResponse:
    """Stand in for the gateway's own pages."""
    return HttpResponse(f"hello from Django at {request.path}")


@csrf_exempt
def echo(request: HttpRequest) -> HttpResponse:
    """Answer with the request's body, so that a test sees whether it came through whole."""
    return HttpResponse(request.body, content_type="application/octet-stream")


urlpatterns = [path("hello", hello), path("echo", echo)]
settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="for-tests-only", USE_TZ=True)

application = mount(get_wsgi_application())
