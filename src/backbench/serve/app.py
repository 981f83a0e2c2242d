"""The HTTP API and the page: a FastAPI app behind the guard."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backbench.errors import StorageError
from backbench.serve.batching import Busy
from backbench.serve.guard import Guard, Rules
from backbench.serve.inbox import VERDICTS, Entry, count_entries, remove_entry, save_entry
from backbench.serve.models import MAX_PIXELS, Model, Question, Reply
from backbench.serve.uploads import Form, find_format, look_at, read_form

SCHEMA_VERSION = 1
ANSWER_SECONDS = 60.0
MAX_TOP = 1000
MAX_NEIGHBOURS = 12
PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FORM_BYTES = 65_536  # bytes of a request besides the image

_log = logging.getLogger(__name__)
router = APIRouter()


@dataclass(frozen=True)
class Service:
    """The state of the app.

    inbox: the folder for marked images; None: nothing is stored. saved: entries of this process, which can
    be withdrawn. pages: name -> (content type, bytes) of the static files.
    """

    models: dict[str, Model]
    inbox: Path | None
    pages: dict[str, tuple[str, bytes]]
    saved: dict[str, Entry] = field(default_factory=dict)


def make_app(
    models: Sequence[Model],
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    max_image_bytes: int = 20_000_000,
    inbox: Path | None = None,
) -> Guard:
    """The whole app, guarded.

    Args:
        models: with distinct names, in the order of the page.
        host, token: see `guard.Rules`. max_image_bytes: of an upload. inbox: see `Service`.
    """
    app = FastAPI(
        title="backbench serve",
        version=version("backbench"),
        description="Classify images with trained models. Images stay in memory and are not stored.",
        docs_url=None,  # FastAPI's own pages load scripts from another host
        redoc_url=None,
    )
    app.state.service = Service({model.name: model for model in models}, inbox, _read_pages())
    app.state.max_image_bytes = max_image_bytes
    app.include_router(router)
    app.add_exception_handler(HTTPException, _say_refusal)
    app.add_exception_handler(RequestValidationError, _say_not_there)
    app.add_exception_handler(Busy, _say_busy)
    app.add_exception_handler(StorageError, _say_not_stored)
    app.add_exception_handler(Exception, _say_failed)
    return Guard(app, Rules(host, token, max_image_bytes + FORM_BYTES))


def _read_pages() -> dict[str, tuple[str, bytes]]:
    files = [path for path in PAGE.iterdir() if path.suffix in PAGE_TYPES]
    return {path.name: (f"{PAGE_TYPES[path.suffix]}; charset=utf-8", path.read_bytes()) for path in files}


IMAGE_FORM: dict[str, Any] = {"image": {"type": "string", "format": "binary"}, "model": {"type": "string"}}


def _form(required: Sequence[str], **more: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": list(required), "properties": IMAGE_FORM | more}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "No image or model in the form, or the form can't be read"},
    403: {"description": "Request from a page of another site"},
    404: {"description": "No such model"},
    408: {"description": "The upload took too long"},
    413: {"description": "Too many bytes or pixels"},
    415: {"description": "Not an image of a known format, or not a form"},
    503: {"description": "Busy; try again after the seconds in Retry-After"},
}


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Whether the server is up")
async def healthz(request: Request) -> Response:
    return _json({"status": "ok", "models": len(_service(request).models)})


@router.get("/api/models", summary="The models, their classes and what is known of them")
async def list_models(request: Request) -> Response:
    service = _service(request)
    return _json(
        {
            "schema": SCHEMA_VERSION,
            "models": [model.describe(number) for number, model in enumerate(service.models.values())],
            "max_image_bytes": request.app.state.max_image_bytes,
            "max_pixels": MAX_PIXELS,
            "inbox": _describe_inbox(service),
        }
    )


@router.post(
    "/api/predict",
    summary="Classify one image with one model",
    description="Gives the JSON of `backbench predict --json`, with the model's name as `bundle` and the name of "
    "the upload as `path`. A damaged image of a known format gives an entry with `error`, status 200.",
    responses=REFUSALS,
    openapi_extra=_form(
        ["image", "model"],
        top={"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 5},
        neighbours={"type": "integer", "minimum": 0, "maximum": MAX_NEIGHBOURS, "default": 0},
        explain={"type": "string", "enum": ["0", "1"], "default": "0"},
    ),
)
async def predict(request: Request) -> Response:
    service = _service(request)
    form = await read_form(request)
    model = _find_model(service, form)
    asked = Question(
        data=b"",
        name=form.name,
        top=_number(form, "top", 5, 1, MAX_TOP),
        num_neighbours=_number(form, "neighbours", 0, 0, MAX_NEIGHBOURS),
        explain=_number(form, "explain", 0, 0, 1) == 1,
    )
    question = replace(asked, data=await _checked_image(request, form))
    reply = await _ask(model, question)
    headers = {"Server-Timing": f"answer;dur={1000 * reply.seconds:.1f}"}
    return _json(
        {"schema": SCHEMA_VERSION, "predictions": [_to_entry(service, model, question, reply)]}, headers=headers
    )


@router.get("/api/models/{number}/samples/{row}", summary="A test image to try, as JPEG")
async def sample(request: Request, number: int, row: int) -> Response:
    gallery = _nth_model(request, number).gallery
    return _jpeg([entry.jpeg for entry in gallery.samples] if gallery else [], row)


@router.get("/api/models/{number}/thumbnails/{row}", summary="A small training image, as JPEG")
async def thumbnail(request: Request, number: int, row: int) -> Response:
    gallery = _nth_model(request, number).gallery
    return _jpeg(gallery.thumbnails if gallery else (), row)


@router.post(
    "/api/inbox",
    summary="Store an image with its true class",
    responses=REFUSALS | {409: {"description": "A sample image: test images must not be used for training"}},
    openapi_extra=_form(
        ["image", "model", "verdict"],
        verdict={"type": "string", "enum": list(VERDICTS)},
        label={"type": "string", "description": "the true class, if known"},
    ),
)
async def keep(request: Request) -> Response:
    service = _service(request)
    if service.inbox is None:
        raise HTTPException(404, "this server stores no images (--no-inbox)")
    form = await read_form(request)
    model = _find_model(service, form)
    verdict, label = form.fields.get("verdict", ""), form.fields.get("label") or None
    if verdict not in VERDICTS or (label is not None and (len(label) > 256 or not label.isprintable())):
        raise HTTPException(
            400, f"the field 'verdict' must be one of {', '.join(VERDICTS)}, and 'label' one printable line"
        )
    data = await _checked_image(request, form)
    if _is_sample(service, data):
        raise HTTPException(409, "this is one of the test images, which are never used for training")
    found = (await _ask(model, Question(data, form.name, top=1))).prediction
    image_format = find_format(data)
    if found.label is None or found.confidence is None or image_format is None:
        raise HTTPException(400, "an unreadable image is not stored")
    said = {
        "name": form.name,
        "model": model.name,
        "run_id": model.facts.training.run_id if model.facts.training else None,
        "weights_digest": model.facts.backbone.weights_digest,
        "answer": found.label,
        "confidence": found.confidence,
        "verdict": verdict,
        "label": found.label if verdict == "right" else label,
    }
    entry = await run_in_threadpool(save_entry, service.inbox, data, image_format, said)
    service.saved[entry.id] = entry
    return _json({"id": entry.id, "label": entry.label, **_describe_inbox(service)})


@router.delete("/api/inbox/{entry_id}", summary="Take one back, of those kept since the server started")
async def take_back(request: Request, entry_id: str) -> Response:
    service = _service(request)
    entry = service.saved.pop(entry_id, None)
    if entry is None or service.inbox is None:
        raise HTTPException(404, "no such entry since the server started")
    await run_in_threadpool(remove_entry, service.inbox, entry)
    return _json(_describe_inbox(service))


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    return _file(request, "index.html")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    return _file(request, "docs.html")


@router.get("/page/{name}", include_in_schema=False)
async def page_file(request: Request, name: str) -> Response:
    return _file(request, name)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _find_model(service: Service, form: Form) -> Model:
    """Find the model by its name in the table."""
    name = form.fields.get("model")
    if name is None:
        raise HTTPException(400, "the form has no field 'model'; see /api/models for the names")
    model = service.models.get(name)
    if model is None:
        raise HTTPException(404, "no such model; see /api/models for the names")
    return model


def _nth_model(request: Request, number: int) -> Model:
    models = list(_service(request).models.values())
    if not 0 <= number < len(models):
        raise HTTPException(404, "no such model")
    return models[number]


async def _checked_image(request: Request, form: Form) -> bytes:
    if form.image is None:
        raise HTTPException(400, "the form has no file in the field 'image'")
    if len(form.image) > request.app.state.max_image_bytes:
        raise HTTPException(413, f"too large: the limit is {request.app.state.max_image_bytes / 1e6:.0f} MB")
    await run_in_threadpool(look_at, form.image, form.name, max_pixels=MAX_PIXELS)
    return form.image


def _number(form: Form, name: str, default: int, least: int, most: int) -> int:
    text = form.fields.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 4 or not least <= int(text) <= most:
        raise HTTPException(400, f"the field '{name}' must be a whole number from {least} to {most}")
    return int(text)


async def _ask(model: Model, question: Question) -> Reply:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asyncio.wrap_future(model.batcher.submit(question))
    except TimeoutError:
        raise Busy from None


def _to_entry(service: Service, model: Model, question: Question, reply: Reply) -> dict[str, Any]:
    entry = {"bundle": model.name, **reply.prediction.to_json()}
    if question.num_neighbours:
        number = list(service.models).index(model.name)
        entry["neighbours"] = [
            {
                "id": near.id,
                "label": near.label,
                "distance": near.distance,
                "thumbnail": f"/api/models/{number}/thumbnails/{near.row}",
            }
            for near in reply.neighbours
        ]
    if question.explain:
        entry |= {"overlay": reply.overlay, "overlay_kind": reply.overlay_kind}
        if reply.overlay_error is not None:
            entry["overlay_error"] = reply.overlay_error
    return entry


def _is_sample(service: Service, data: bytes) -> bool:
    galleries = [model.gallery for model in service.models.values() if model.gallery is not None]
    return any(data == sample.jpeg for gallery in galleries for sample in gallery.samples)


def _describe_inbox(service: Service) -> dict[str, Any]:
    if service.inbox is None:
        return {"is_open": False, "num_entries": 0}
    return {"is_open": True, "folder": service.inbox.name, "num_entries": count_entries(service.inbox)}


def _jpeg(images: Sequence[bytes], row: int) -> Response:
    if not 0 <= row < len(images):
        raise HTTPException(404, "no such image")
    return Response(images[row], media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def _file(request: Request, name: str) -> Response:
    found = _service(request).pages.get(name)
    if found is None:
        raise HTTPException(404, "no such page")
    return Response(found[1], media_type=found[0])


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Plain ASCII, so that it works with any name."""
    body = json.dumps(document, allow_nan=False).encode("ascii")
    return Response(body, status, headers, media_type="application/json")


async def _say_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered only for this type
    headers = dict(error.headers) if error.headers else None
    return _json({"error": error.detail}, error.status_code, headers)


async def _say_not_there(_: Request, __: Exception) -> Response:
    return _json({"error": "no such page"}, 404)


async def _say_busy(_: Request, __: Exception) -> Response:
    return _json({"error": "busy; try again in a second"}, 503, {"Retry-After": "1"})


async def _say_not_stored(_: Request, error: Exception) -> Response:
    _log.warning("%s", error)
    return _json({"error": "the inbox can't be written; see the messages of the server"}, 507)


async def _say_failed(_: Request, __: Exception) -> Response:
    return _json({"error": "the server failed on this image; see the messages of the server"}, 500)
