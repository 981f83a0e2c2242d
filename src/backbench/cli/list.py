"""`backbench list`: models, methods and data sets, from packaged metadata."""

from __future__ import annotations

from typing import Any

import click

from backbench.cli.options import json_option

KINDS = ("models", "methods", "data")


@click.command("list", short_help="List models, methods and data sets.")
@click.argument("kind", metavar="models|methods|data")
@click.option(
    "--filter", "text", default="", help="Only entries with all of these words in their name, licence or summary."
)
@json_option
def list_names(kind: str, text: str, as_json: bool) -> None:
    """List models, methods and data sets. Example: backbench list models --filter "dinov2 small"."""
    from backbench.cli.output import print_json
    from backbench.errors import unknown_name

    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS, "backbench list", "backbench list --help")
    words = text.casefold().split()
    entries = [entry for entry in _entries(kind) if all(word in _searched(entry) for word in words)]
    if as_json:
        print_json({"schema": 1, kind: entries})
    elif entries or not text:
        print(_render(entries))
    else:
        raise unknown_name(
            kind, text, (entry["name"] for entry in _entries(kind)), "--filter", f"backbench list {kind}"
        )


def _searched(entry: dict[str, Any]) -> str:
    return " ".join(entry.get(key) or "" for key in ("name", "licence", "pretrained_on", "summary")).casefold()


def _entries(kind: str) -> list[dict[str, Any]]:
    from backbench.registry import list_methods, list_models, list_sources

    if kind == "methods":
        return [{"name": spec.name, "summary": spec.summary} for spec in list_methods()]
    if kind == "data":
        return [
            {
                "name": spec.name,
                "images": spec.num_images,
                "classes": spec.num_classes,
                "download_bytes": spec.download_bytes,
                "licence": spec.licence,
                "summary": spec.summary,
            }
            for spec in list_sources()
        ]
    return [
        {
            "name": spec.name,
            "parameters": spec.num_parameters,
            "input_size": spec.input_size,
            "flops": spec.flops,
            "pretrained_on": spec.pretrained_on,
            "licence": spec.licence,
            "control": spec.is_control,
            "summary": spec.summary,
        }
        for spec in list_models()
    ]


def _render(entries: list[dict[str, Any]]) -> str:
    """Aligned columns: name, main facts, summary."""
    lines = []
    width = min(max((len(entry["name"]) for entry in entries), default=0), 56)
    for entry in entries:
        facts = []
        if entry.get("parameters"):
            facts.append(f"{entry['parameters'] / 1e6:6.1f} M")
        if entry.get("input_size"):
            facts.append(f"{entry['input_size']:4d} px")
        if entry.get("images"):
            facts.append(f"{entry['images']:,} images, {entry['classes']} classes")
        if entry.get("licence"):
            facts.append(entry["licence"])
        lines.append("  ".join([f"{entry['name']:<{width}}", *facts, entry["summary"]]).rstrip())
    lines.append(f"\n{len(entries):,} listed.")
    return "\n".join(lines)
