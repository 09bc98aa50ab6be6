"""Files that are whole or not there, and outputs that are never deleted."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cake_cli import storage
from cake_cli.errors import EnvironmentFault, UsageError
from cake_cli.storage import (
    TEMPORARY,
    append_line,
    check_file,
    check_output,
    claim_output,
    clear_abandoned,
    clear_leftovers,
    replacing,
    replacing_folder,
    set_aside,
    sha256,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path):
    file = tmp_path / "a.txt"
    with replacing(file) as temporary:
        temporary.write_text("one")
        assert not file.exists()
        assert temporary.parent == tmp_path, "a rename must not cross disks"
        assert temporary.name.startswith(TEMPORARY)
    assert file.read_text() == "one"
    assert names(tmp_path) == ["a.txt"]


def fail_halfway(file: Path) -> None:
    with replacing(file) as temporary:
        temporary.write_text("half")
        raise KeyError("midway")


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    with pytest.raises(KeyError):
        fail_halfway(file)
    assert file.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "said", "fix"),
    [
        (errno.ENOSPC, "no space left", "cake resume"),
        (errno.EDQUOT, "no space left", "cake resume"),
        (errno.EROFS, "could not be written", "--out"),
    ],
)
def test_a_disk_that_refuses_is_an_environment_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, fix: str
):
    file = tmp_path / "a.txt"
    file.write_text("before")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.os, "fsync", refuse)
    with pytest.raises(EnvironmentFault) as caught:
        write_text(file, "after")
    assert said in caught.value.what
    assert str(file) in caught.value.what
    assert fix in (caught.value.fix or "")
    assert file.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_below_a_file_is_an_environment_fault(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="could not be written"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_the_longest_name_can_be_written(tmp_path: Path):
    file = tmp_path / ("n" * 255)
    write_text(file, "x")
    assert file.read_text() == "x"


def test_json_is_readable_and_strict(tmp_path: Path):
    file = tmp_path / "a.json"
    write_json(file, {"name": "\N{SNOWMAN}"})
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "\N{SNOWMAN}"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"loss": float("nan")})
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "\N{SNOWMAN}"}


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path):
    """Some writers make private files: what lies in a run is as public as everything else a user writes."""
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a") as temporary:
            temporary.unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_leftovers_are_cleared_and_nothing_else(tmp_path: Path):
    for name in (f"{TEMPORARY}1234-a.txt", "a.txt", ".hidden"):
        (tmp_path / name).touch()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "a.txt"]


def test_the_hash_is_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- outputs ------------------------------------------------------------------------------------------------------


def test_an_output_that_is_not_there_or_empty_is_taken(tmp_path: Path):
    claim_output(tmp_path / "new" / "deep", force=False)
    claim_output(tmp_path / "new" / "deep", force=False)
    assert (tmp_path / "new" / "deep").is_dir()


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_a_file_is_refused(tmp_path: Path, force: bool):
    file = tmp_path / "a"
    file.write_text("mine")
    with pytest.raises(UsageError, match="not a folder"):
        claim_output(file, force=force)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_a_dangling_link_is_refused(tmp_path: Path, force: bool):
    link = tmp_path / "a"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not a folder"):
        claim_output(link, force=force)
    assert link.is_symlink()


def test_a_full_output_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty") as caught:
        claim_output(tmp_path, force=False)
    assert "--force" in (caught.value.fix or "")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_force_moves_aside_each_time(tmp_path: Path):
    out = tmp_path / "out"
    for content in ("first", "second"):
        claim_output(out, force=True)
        assert names(out) == []
        (out / "mine.txt").write_text(content)
    claim_output(out, force=True)
    assert names(tmp_path) == ["out", "out.old-1", "out.old-2"]
    assert (tmp_path / "out.old-1" / "mine.txt").read_text() == "first"
    assert (tmp_path / "out.old-2" / "mine.txt").read_text() == "second"


def test_force_leaves_an_empty_output_where_it_is(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    claim_output(out, force=True)
    assert names(tmp_path) == ["out"]


def test_force_moves_a_link_and_not_what_it_leads_to(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine.txt").touch()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    claim_output(tmp_path / "out", force=True)
    assert names(tmp_path / "real") == ["mine.txt"]
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["file/out", "file/deep/out", "n" * 300])
@pytest.mark.parametrize("act", [check_output, claim_output])
def test_an_output_that_cannot_be_made_is_refused(tmp_path: Path, act: Callable[..., None], name: str):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be created"):
        act(tmp_path / name, force=False)


def test_a_system_that_refuses_is_a_usage_error():
    with pytest.raises(UsageError, match="cannot be created"):
        claim_output(Path("/proc/cake-out"), force=False)


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="not writable"):
        claim_output(tmp_path / "out", force=False)


def test_checking_changes_nothing(tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    check_output(tmp_path / "full", force=True)
    check_output(tmp_path / "new" / "deep", force=False)
    assert names(tmp_path) == ["full"]
    assert names(tmp_path / "full") == ["mine.txt"]


def test_a_file_is_refused_or_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "student.onnx"
    check_file(file, force=False)
    set_aside(file)
    for content in ("one", "two"):
        file.write_text(content)
        with pytest.raises(UsageError, match="exists"):
            check_file(file, force=False)
        check_file(file, force=True)
        set_aside(file)
    assert names(tmp_path) == ["student.onnx.old-1", "student.onnx.old-2"]
    assert (tmp_path / "student.onnx.old-2").read_text() == "two"
    file.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists"):
        check_file(file, force=False)
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "none" / "x", "there is no folder"),
                       (tmp_path / ("n" * 300), "cannot be created")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            check_file(path, force=True)
    monkeypatch.setattr(storage.os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UsageError, match="not writable"):
        check_file(tmp_path / "x", force=True)


# --- lines and folders --------------------------------------------------------------------------------------------


def test_lines_are_added(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    for line in ("one", "zwei und ü"):
        append_line(file, line)
    assert file.read_text(encoding="utf-8") == "one\nzwei und ü\n"


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "a.jsonl"
    append_line(file, "one")
    monkeypatch.setattr(storage.os, "fsync", full)
    for path in (file, tmp_path / "b.jsonl"):
        with pytest.raises(EnvironmentFault, match="no space left"):
            append_line(path, "two")
    assert file.read_text() == "one\n"
    assert (tmp_path / "b.jsonl").read_text() == ""


def test_a_folder_appears_whole(tmp_path: Path):
    folder = tmp_path / "images"
    with replacing_folder(folder) as temporary:
        (temporary / "a").write_text("a")
        assert not folder.exists()
    assert names(folder) == ["a"]
    assert names(tmp_path) == ["images"]


def test_a_folder_that_failed_is_gone(tmp_path: Path):
    def fail() -> None:
        with replacing_folder(tmp_path / "images") as temporary:
            (temporary / "a").write_text("a")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EnvironmentFault, match="no space left"):
        fail()
    assert names(tmp_path) == []


def test_leftover_folders_are_cleared_and_links_are_not_followed(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("a")
    (tmp_path / f"{TEMPORARY}1-images").mkdir()
    (tmp_path / f"{TEMPORARY}1-images" / "a").write_text("a")
    (tmp_path / f"{TEMPORARY}2-link").symlink_to(kept)
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["kept"]
    assert names(kept) == ["file"]


class _Refuses:
    """A library that puts what the system said into words of its own, or leaves it out."""

    def __init__(self, say: Exception, context: OSError | None = None) -> None:
        self.say, self.context = say, context

    def __call__(self) -> None:
        try:
            if self.context is not None:
                raise self.context
        finally:
            raise self.say


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "refuses",
    [
        _Refuses(ValueError("Error while serializing: I/O error: No space left on device (os error 28)")),
        _Refuses(ValueError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })')),
        _Refuses(RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598"), FULL),
        _Refuses(FULL),
    ],
)
def test_a_full_disk_in_the_words_of_others(tmp_path: Path, refuses: _Refuses):
    with pytest.raises(EnvironmentFault, match="no space left on the disk of"), replacing(tmp_path / "file"):
        refuses()
    assert list(tmp_path.iterdir()) == []


def test_a_fault_that_is_no_disk_is_not_taken_for_one(tmp_path: Path):
    with pytest.raises(RuntimeError, match="shapes"), replacing(tmp_path / "file"):
        raise RuntimeError("shapes (28) differ")
    with pytest.raises(UsageError, match="no"), replacing(tmp_path / "file"):
        raise UsageError("no", "yes") from FULL


def test_a_name_of_any_letters_is_cut_to_what_a_file_system_takes(tmp_path: Path):
    for name in ("n" * 255, "é" * 127, "🎂" * 63):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text(encoding="utf-8") == name
    assert len(list(tmp_path.iterdir())) == 3


def test_only_the_abandoned_is_cleared(tmp_path: Path):
    (tmp_path / ".partial-0000-a.onnx").touch()
    (tmp_path / ".partial-0000-b.onnx").touch()
    with replacing(tmp_path / "a.onnx") as temporary:
        clear_abandoned(tmp_path, "-a.onnx")
        assert {path.name for path in tmp_path.iterdir()} == {temporary.name, ".partial-0000-b.onnx"}
