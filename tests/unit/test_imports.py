"""What must stay light stays light, and what must not be called is not called."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "src" / "backbench").rglob("*.py"))
HEAVY = ("torch", "torchvision", "timm", "sklearn", "scipy", "numpy", "pydantic", "PIL", "rich", "safetensors")
FORBIDDEN_CALLS = (
    r"pickle\.loads?\(",
    r"weights_only\s*=\s*False",
    r"allow_pickle\s*=\s*True",
    r"joblib\.load",
    r"yaml\.load",
    r"(?<![\w.])eval\(",
    r"(?<![\w.])exec\(",
    r"shell\s*=\s*True",
    r"LOAD_TRUNCATED_IMAGES\s*=",
)


@cache
def code_of(source: str) -> str:
    """The source without comments and the text of strings: a message may name what no code may do."""
    told = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return tokenize.untokenize(token for token in tokens if token.type not in told)


def modules_after(*arguments: str) -> set[str]:
    code = (
        "import sys\n"
        "from backbench.cli import main\n"
        f"sys.argv = ['backbench', *{list(arguments)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("MODULES", 1)[1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["rank", "--help"], ["--version"], ["rank"], ["rnk"]])
def test_help_and_wrong_usage_import_nothing_heavy(arguments: list[str]) -> None:
    assert not modules_after(*arguments) & set(HEAVY)


@pytest.mark.parametrize(
    "arguments", [["list", "models"], ["list", "methods"], ["list", "data"], ["show", "nothing"]]
)
def test_listing_and_showing_do_not_import_torch(arguments: list[str]) -> None:
    assert not modules_after(*arguments) & {"torch", "torchvision", "timm", "sklearn"}


def test_a_typo_in_a_model_or_method_is_answered_without_torch(tmp_path: Path) -> None:
    for arguments in (["--models", "resnet5O"], ["--methods", "logistc"]):
        assert "torch" not in modules_after("rank", "digits", *arguments, "--out", str(tmp_path / "runs"))


@pytest.mark.parametrize("pattern", FORBIDDEN_CALLS)
def test_no_source_file_makes_an_unsafe_call(pattern: str) -> None:
    assert not [path.name for path in SOURCES if re.search(pattern, code_of(path.read_text()))]
    assert SOURCES  # the check looked at something


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(\n    path,\n    weights_only = False,\n)", True),
        ("say('torch.load(path, weights_only=False)')  # weights_only=False", False),
    ],
)
def test_unsafe_calls_are_found_in_code_and_not_in_messages(source: str, is_found: bool) -> None:
    assert bool(re.search(FORBIDDEN_CALLS[1], code_of(source))) == is_found


def test_importing_the_package_starts_no_thread_socket_or_process() -> None:
    code = (
        "import sys, threading\n"
        "seen = []\n"
        "watched = ('socket.connect', 'socket.bind', 'subprocess.Popen', 'os.fork', 'os.posix_spawn')\n"
        "sys.addaudithook(lambda event, args: seen.append(event) if event in watched else None)\n"
        "import backbench, backbench.cli, backbench.registry, backbench.runs.rank\n"
        "backbench.registry.list_models()\n"
        "assert not seen, seen\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
