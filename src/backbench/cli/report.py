"""`backbench report`: runs as one page, a table, or a card."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from backbench.cli.options import out_option, projection_option, quiet_option

FORMATS = ("html", "md", "csv", "json", "card", "data-card")


@click.command(short_help="Write a self-contained HTML report of runs.")
@click.argument("runs", nargs=-1, metavar="[RUNS]...")
@click.option(
    "--output", "-o", "target", type=click.Path(path_type=Path), help="File to write.  [html: report.html]"
)
@click.option("--format", "kind", type=click.Choice(FORMATS), default="html", show_default=True)
@click.option("--title", default="backbench report", show_default=True, help="Title of the page.")
@click.option("--images/--no-images", "has_images", default=True, help="Embed small pictures of test images.")
@projection_option
@click.option(
    "--explain",
    "num_explained",
    type=click.IntRange(0, 24),
    default=6,
    show_default=True,
    help="Number of images to explain for each model that has a bundle; 0: none.",
)
@out_option
@quiet_option
def report(
    runs: tuple[str, ...],
    target: Path | None,
    kind: str,
    title: str,
    has_images: bool,
    map_method: str,
    num_explained: int,
    out: str,
    quiet: bool,
) -> None:
    """Write a self-contained HTML report of runs.

    RUNS are run folders, run ids or folders of runs. Without RUNS, all runs in the folder of --out are shown. Runs
    with different test images get separate sections and are never ranked together.

    \b
    Example: backbench report runs/ -o report.html
             backbench report runs/ --format md
    """
    from backbench.errors import ConfigError, printable, shown
    from backbench.explain.evidence import ReportRequest, gather_report
    from backbench.progress import make_progress
    from backbench.report.cards import render_data_card, render_model_card
    from backbench.report.export import render_csv, render_json, render_markdown
    from backbench.report.page.render import MAX_PAGE_BYTES, render_report
    from backbench.storage import write_atomically
    from backbench.wording import count

    is_page = kind == "html"
    if target is None and is_page:
        target = Path("report.html")
    if target is not None and target.is_dir():
        raise ConfigError(
            f"-o {shown(str(target))} is a folder. Give a file in it, such as {target / 'report.html'}."
        )
    request = ReportRequest(
        runs=runs or (out,),
        out=Path(out),
        has_images=has_images and is_page,
        map_method=map_method if is_page else "none",
        num_explained=num_explained if is_page else 0,
    )
    with make_progress(quiet=quiet) as progress:
        rankings, evidence, warnings = gather_report(request, progress)
        for warning in warnings:
            progress.warn(warning)
        if is_page:
            text = render_report(rankings, evidence, title=title)
        else:
            render = {
                "md": render_markdown,
                "csv": render_csv,
                "json": render_json,
                "card": render_model_card,
                "data-card": render_data_card,
            }[kind]
            text = render(rankings)
        data = text.encode("utf-8", "backslashreplace")
        if len(data) > MAX_PAGE_BYTES:
            progress.warn(
                f"the page has {len(data) / 1e6:.1f} MB; use --no-images or fewer runs for a smaller one"
            )
    if target is None:
        sys.stdout.write(data.decode())
        return
    write_atomically(target, data, "choose another file with --output")
    if not quiet:
        num = sum(len(ranked.entries) for ranked in rankings)
        print(f"{printable(str(target))}: {count(num, 'run')}, {len(data) / 1e6:.1f} MB", file=sys.stderr)
