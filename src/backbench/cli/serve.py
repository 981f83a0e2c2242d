"""`backbench serve`: a page and an HTTP API on this computer, to try trained models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbench.cli.options import device_option, json_option, quiet_option

if TYPE_CHECKING:
    import socket

TOKEN_PATTERN = r"[A-Za-z0-9_-]{16,128}"


@click.command(short_help="Try trained models on a web page.")
@click.argument("bundles", metavar="BUNDLE|RUN...", nargs=-1, required=True)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; any other address needs --token."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port to listen on; 0: any free port.",
)
@click.option("--token", metavar="TEXT|new", help="Secret that every visitor must give; 'new' generates one.")
@click.option(
    "--max-image-mb",
    type=click.IntRange(1, 200),
    default=20,
    show_default=True,
    help="Maximum size of an upload, in MB.",
)
@click.option(
    "--inbox", default="inbox", show_default=True, help="Folder for images that people mark right or wrong."
)
@click.option("--no-inbox", is_flag=True, help="Never store an image.")
@device_option
@json_option
@quiet_option
def serve(
    bundles: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    max_image_mb: int,
    inbox: str,
    no_inbox: bool,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Try trained models on a page: drop, paste or take a picture, and compare predictions.

    Only this computer can open the page. Images stay in memory, except those that you mark (see --inbox). Ctrl-C
    ends it.

    \b
    Example: backbench serve runs/photos-resnet18-full-0123456789.bundle runs/other.bundle
    """
    from backbench.errors import ConfigError

    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"The page to try models needs the package '{error.name}', a dependency of backbench that is not "
            "installed. Reinstall backbench: pip install --upgrade backbench"
        ) from error
    token = decide_token(host, token)
    listening = open_socket(host, port)
    with listening:
        url = address_of(listening, host)
        _run(
            bundles, listening, url, host, token, max_image_mb, None if no_inbox else inbox, device, as_json, quiet
        )


def decide_token(host: str, given: str | None) -> str | None:
    """The token that visitors need; None on loopback without --token.

    Raises:
        ConfigError: an address that others can reach without a token, or a weak token.
    """
    import re
    import secrets

    from backbench.errors import ConfigError
    from backbench.serve.guard import is_loopback

    if given == "new":
        return secrets.token_urlsafe(24)
    if given is not None and not re.fullmatch(TOKEN_PATTERN, given):
        raise ConfigError("--token needs 16 to 128 letters, digits, '-' or '_'. To generate one: --token new")
    if given is None and not is_loopback(host):
        raise ConfigError(
            f"others can reach --host {host} and could use these models: add --token new, or leave --host out."
        )
    return given


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there; ConfigError if that is not possible."""
    import socket

    from backbench.errors import ConfigError

    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not an address"
        raise ConfigError(
            f"can't listen on {host}, port {port}: {reason}. Choose another with --port, or --port 0 for any."
        ) from error


def address_of(listening: socket.socket, host: str) -> str:
    """The URL for a browser."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}/"


def _run(
    bundles: tuple[str, ...],
    listening: socket.socket,
    url: str,
    host: str,
    token: str | None,
    max_image_mb: int,
    inbox: str | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    from backbench.cli.output import print_json
    from backbench.runtime import decide_device
    from backbench.serve.app import make_app
    from backbench.serve.inbox import check_inbox
    from backbench.serve.models import load_models

    if inbox is not None:
        check_inbox(Path(inbox))
    models = load_models([Path(bundle) for bundle in bundles], device=decide_device(device))
    app = make_app(
        models,
        host=host,
        token=token,
        max_image_bytes=max_image_mb * 1_000_000,
        inbox=None if inbox is None else Path(inbox).resolve(),
    )
    link = url if token is None else f"{url}?token={token}"

    def announce() -> None:
        if as_json:
            print_json({"url": link, "models": [model.name for model in models]})
        else:
            print(link)
        sys.stdout.flush()
        if not quiet:
            names = ", ".join(model.name for model in models)
            print(f"Open the address in a browser. Serving {names}. Ctrl-C ends it.", file=sys.stderr)

    try:
        _listen(app, listening, announce)
    finally:
        for model in models:
            model.batcher.close()


def _listen(app: Any, listening: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `announce` is called as soon as requests are answered."""
    from backbench.serve.connections import Door, Server, decide_limits
    from backbench.stopping import Terminated, stop_status

    server = Server(app, limits=decide_limits(), announce=announce)
    try:
        with Door(listening) as door:
            server.run(sockets=[door])
    except Terminated:  # both are raised again after everything is closed
        sys.exit(stop_status())
    except KeyboardInterrupt:  # the normal way to stop
        pass
