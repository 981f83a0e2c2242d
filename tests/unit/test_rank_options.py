"""Options of `rank` that change methods, splits and classes."""

from __future__ import annotations

import pytest

from backbench.cli.parse import make_data_config, parse_split_folders
from backbench.cli.rank import with_settings
from backbench.config import MethodConfig
from backbench.errors import ConfigError

METHODS = [MethodConfig(name=name) for name in ("knn", "logistic", "full", "two-phase")]


def options(*settings: str) -> dict[str, dict]:
    return {method.name: method.options for method in with_settings(METHODS, settings) if method.options}


def test_a_setting_reaches_each_method_that_has_it() -> None:
    epochs = {"recipe": {"epochs": 3}}
    assert options("recipe.epochs=3") == {"full": epochs, "two-phase": epochs}
    assert options("two-phase:recipe.epochs=3", "ks=[3,5]") == {"two-phase": epochs, "knn": {"ks": [3, 5]}}
    assert options("options.ks=[3]", "knn:default_k=3") == {"knn": {"ks": [3], "default_k": 3}}
    assert options() == {}


def test_the_options_of_the_methods_before_stay() -> None:
    before = [MethodConfig(name="knn", options={"default_k": 3})]
    assert with_settings(before, ["ks=[3]"])[0].options == {"default_k": 3, "ks": [3]}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("kks=[3]", r"no option 'kks' of the method knn or logistic or full or two-phase. Did you mean 'ks'"),
        ("logistic:ks=[3]", "no option 'ks' of the method logistic"),
        ("knnn:ks=[3]", "'knnn' is not one of the ranked methods. Did you mean 'knn'"),
        ("zzz:ks=[3]", "Ranked methods: knn, logistic, full, two-phase"),
        ("recipe.epoch=3", "no option 'recipe.epoch'. Did you mean 'recipe.epochs'"),
        ("recipe.epochs=-3", "option 'recipe.epochs' of method 'full' can't be -3"),
        ("recipe.epochs", "not KEY=VALUE"),
        ("knn:=3", "not KEY=VALUE"),
    ],
)
def test_a_setting_that_no_method_can_have(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(setting)


def test_names_of_split_folders() -> None:
    assert parse_split_folders("2019=train, my = set/=test") == {"2019": "train", "my = set": "test"}
    assert parse_split_folders("None") == {}
    for wrong in ("2019", "2019=training", "=train", "", ","):
        with pytest.raises(ConfigError, match="--split-folders"):
            parse_split_folders(wrong)


def make(**choices: object):
    return make_data_config("photos", split=None, seed=0, on_bad="fail", choices=choices)


def test_what_was_chosen_is_in_the_config() -> None:
    config = make(
        test_fraction=0.3, min_images=5, split_folders="a=train,b=test", ignore=("c",), follow_links=True
    )
    assert (config.test_fraction, config.val_fraction, config.min_images) == (0.3, 0.2, 5)
    assert config.split_folders == {"a": "train", "b": "test"}
    assert (config.ignore, config.follow_links) == (("c",), True)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["test_fraction", "val_fraction"])
def test_fractions_are_shares(name: str, fraction: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        make(**{name: fraction})
