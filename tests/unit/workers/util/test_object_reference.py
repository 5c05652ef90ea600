"""References to objects of the user: how they are found, and the error when they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from redflare_broker.errors import ConfigError
from redflare_workers.util.object_reference import beside, named

MODULE = """
import collections
model = {"w": 1}
class Trainer:
    def train(self, task, site): ...
trainer = Trainer()
def train(task, site): ...
def evaluate(task, site): ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "naming_module.py").write_text(MODULE)
    (tmp_path / "naming_broken.py").write_text("import no_such_library\n")
    (tmp_path / "naming_raising.py").write_text("1 / 0\n")
    return tmp_path


def test_a_function_of_a_module_in_the_current_folder_is_found() -> None:
    assert named("naming_module:train", "TRAIN").__name__ == "train"


def test_a_name_may_have_parts() -> None:
    assert named("naming_module:trainer.train", "TRAIN").__name__ == "train"


def test_another_name_of_the_module_is_found_or_none() -> None:
    named("naming_module:train", "TRAIN")
    assert beside("naming_module:train", "model") == {"w": 1}
    assert beside("naming_module:train", "initial_model") is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("naming_module", "--x must be module:name, such as trainer:train, but is 'naming_module'"),
        (":train", "--x must be module:name, such as trainer:train, but is ':train'"),
        ("naming_module:", "--x must be module:name, such as trainer:train, but is 'naming_module:'"),
        ("./naming_module.py:train", "names a file; name the module: naming_module:train"),
        ("sub/trainer:train", "names a file; name the module: sub.trainer:train"),
        ("nowhere_at_all:train", "there is no module 'nowhere_at_all', neither installed nor in "),
        ("naming_module.sub:train", "there is no module 'naming_module.sub'"),
        ("naming_broken:train", "module 'naming_broken' needs 'no_such_library', which is not installed"),
        ("naming_raising:train", "module 'naming_raising' cannot be imported: ZeroDivisionError: division by zero"),
        ("naming_module:trian", "module 'naming_module' has no 'trian'; did you mean 'train'?"),
        ("naming_module:xyz", "module 'naming_module' has no 'xyz'; it has Trainer, evaluate, train"),
        ("naming_module:trainer.xyz", "module 'naming_module' has no 'xyz'"),
    ],
)
def test_a_wrong_reference_is_an_error_that_names_the_wrong_part(reference: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        named(reference, "--x")
    assert message in str(raised.value)
