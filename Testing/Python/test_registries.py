"""Every registered name can be imported and built, is explained, and is what help, README and docs list."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from DeepDiffRegLib.cli import COMMANDS
from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.cli.methods import REGISTRIES, listing, markdown
from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.registry import Entry, Registry, nearest
from DeepDiffRegLib.regularization import REGULARIZERS
from DeepDiffRegLib.regularization.base import Regularizer
from DeepDiffRegLib.similarity import SIMILARITIES
from DeepDiffRegLib.similarity.base import Similarity

ROOT = Path(__file__).resolve().parents[2]
ROWS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry]


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_entry_loads_and_is_explained(kind, name):
    entry = REGISTRIES[kind][name]
    assert callable(entry.load())
    assert entry.help and "\n" not in entry.help and len(entry.help) < 100
    assert inspect.getdoc(entry.load())


@pytest.mark.parametrize(
    ("registry", "base", "name"),
    [(SIMILARITIES, Similarity, n) for n in SIMILARITIES] + [(REGULARIZERS, Regularizer, n) for n in REGULARIZERS],
)
def test_term_builds_with_its_defaults(registry, base, name):
    assert isinstance(registry.build(name), base)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_arguments_and_run(name):
    import importlib

    module = importlib.import_module(COMMANDS[name].target)
    assert callable(module.add_arguments) and callable(module.run) and module.__doc__


def test_methods_lists_every_registry(capsys):
    assert main(["methods", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == listing()
    for kind, registry in REGISTRIES.items():
        assert [row["name"] for row in printed[kind]] == list(registry)
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for _, name in ROWS)


def test_readme_shows_the_registries():
    """The README's table is the output of ``DeepDiffRegLib.cli.methods.markdown()``."""
    assert markdown() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_registry_refuses_duplicates_and_suggests():
    entry = Entry("one", "json:loads", "help")
    with pytest.raises(ConfigError, match="registered twice"):
        Registry("thing", entry, entry)
    with pytest.raises(ConfigError, match="did you mean 'one'"):
        Registry("thing", entry)["oen"]
    assert "known: one" in nearest("zzzzzz", ["one"])


def test_registry_build_names_a_wrong_option():
    with pytest.raises(ConfigError, match="lncc"):
        SIMILARITIES.build("lncc", radius_parsecs=2)


def test_readme_sections_are_replaced(tmp_path):
    import importlib.util

    spec = importlib.util.spec_from_file_location("readme", ROOT / "Testing" / "Benchmarks" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- x:start -->\nold\n<!-- x:end -->\nb\n")
    module.write_section("x", "new", path)
    assert path.read_text() == "a\n<!-- x:start -->\nnew\n<!-- x:end -->\nb\n"
    with pytest.raises(ValueError, match="no section"):
        module.write_section("y", "new", path)
