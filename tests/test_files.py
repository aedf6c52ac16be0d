"""A file's name never shows half of it, and the system's refusals are sentences."""

import errno
import os
import stat
from pathlib import Path

import pytest

from rsk_deploy.errors import UsageError, VerificationError
from rsk_deploy.files import atomic, settle, size_of, staged


def write(path, force=False, then=lambda: None):
    """Write a file in which something happens before it is finished."""
    with atomic(path, force) as temporary:
        temporary.write_text("new")
        then()


def raising(error):
    def fail(*arguments):
        raise error

    return fail


def test_until_it_is_finished_the_old_file_is_there(tmp_path):
    path = tmp_path / "net.rsk"
    path.write_text("old")
    seen = []
    write(path, force=True, then=lambda: seen.append(path.read_text()))
    assert (seen, path.read_text()) == (["old"], "new")


def test_a_finished_file_takes_its_name_and_leaves_nothing_else(tmp_path):
    write(tmp_path / "net.rsk")
    assert (tmp_path / "net.rsk").read_text() == "new"
    assert os.listdir(tmp_path) == ["net.rsk"]


def test_the_temporary_file_has_the_final_name_in_a_hidden_folder_beside_it(tmp_path):
    with atomic(tmp_path / "net.rsk", force=False) as temporary:
        assert temporary.parent.parent == tmp_path
        assert temporary.parent.name.startswith(".net.rsk.partial-")
        assert temporary.name == "net.rsk"
        temporary.write_text("new")


def test_files_beside_it_move_with_it(tmp_path):
    with atomic(tmp_path / "net.onnx", force=False) as temporary:
        temporary.write_text("new")
        temporary.with_name("net.onnx.data").write_text("more")
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "net.onnx.data"]


def test_a_file_beside_it_replaces_an_old_one_only_with_force(tmp_path):
    (tmp_path / "net.onnx.data").write_text("old")

    def write_both():
        with atomic(tmp_path / "net.onnx", force=False) as temporary:
            temporary.write_text("new")
            temporary.with_name("net.onnx.data").write_text("more")

    with pytest.raises(UsageError, match=r"net\.onnx\.data: exists already"):
        write_both()
    assert (os.listdir(tmp_path), (tmp_path / "net.onnx.data").read_text()) == (["net.onnx.data"], "old")


def write_folder(path, force=False, content="new", then=lambda: None):
    """Write a folder in which something happens before it is finished."""
    with staged(path, force, folder=True) as temporary:
        (temporary / "Data").mkdir(parents=True)
        (temporary / "Manifest.json").write_text(content)
        (temporary / "Data" / "weights").write_text(content)
        then()
        settle(temporary, path, force)


def read_folder(path):
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_a_folder_takes_its_name_whole_and_replaces_another_only_with_force(tmp_path):
    path = tmp_path / "net.mlpackage"
    write_folder(path, content="old")
    with pytest.raises(UsageError, match=r"net\.mlpackage: exists already and is kept"):
        write_folder(path)
    seen = []
    write_folder(path, force=True, then=lambda: seen.append(read_folder(path)))
    assert seen == [{"Manifest.json": "old", "Data/weights": "old"}]
    assert read_folder(path) == {"Manifest.json": "new", "Data/weights": "new"}
    assert os.listdir(tmp_path) == ["net.mlpackage"]
    assert size_of(path) == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, VerificationError])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "net.mlpackage"
    write_folder(path, content="old")
    with pytest.raises(error):
        write_folder(path, force=True, then=raising(error))
    assert (os.listdir(tmp_path), read_folder(path)["Data/weights"]) == (["net.mlpackage"], "old")


def test_the_old_folder_comes_back_when_the_new_one_cannot_follow(tmp_path, monkeypatch):
    path = tmp_path / "net.mlpackage"
    write_folder(path, content="old")
    rename, moved = os.rename, []

    def second_fails(source, target):
        moved.append(target)
        if len(moved) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(UsageError, match="cannot be written: Input/output error"):
        write_folder(path, force=True)
    assert (os.listdir(tmp_path), read_folder(path)["Data/weights"]) == (["net.mlpackage"], "old")


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "net.mlpackage").mkdir()
    (tmp_path / "net.mlpackage" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds thesis\.tex, which the new folder does not have"):
        write_folder(tmp_path / "net.mlpackage", force=True)
    assert os.listdir(tmp_path / "net.mlpackage") == ["thesis.tex"]


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("é" * 125 + ".rsk")
    write(path)
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, VerificationError, ZeroDivisionError, SystemExit])
def test_after_an_exception_the_old_file_is_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "net.rsk"
    path.write_text("old")
    with pytest.raises(error):
        write(path, force=True, then=raising(error))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["net.rsk"]


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(tmp_path):
    path = tmp_path / "net.rsk"
    path.write_text("old")
    with pytest.raises(UsageError, match=r"net\.rsk: exists already and is kept\. Give --force .* once the new one is complete"):
        write(path)
    assert path.read_text() == "old"
    write(path, force=True)
    assert path.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "net.rsk"
    with pytest.raises(UsageError, match="exists already"):
        write(path, then=lambda: path.write_text("someone else's"))
    assert path.read_text() == "someone else's"
    assert os.listdir(tmp_path) == ["net.rsk"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_follow_the_umask_whatever_the_writer_sets(tmp_path, umask):
    old = os.umask(umask)
    try:
        with atomic(tmp_path / "net.rsk", force=False) as temporary:
            temporary.write_text("new")
            temporary.chmod(0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "net.rsk").stat().st_mode) == 0o666 & ~umask


def test_a_writer_that_replaces_the_temporary_file_is_fine(tmp_path):
    with atomic(tmp_path / "net.rsk", force=False) as temporary:
        temporary.write_text("old")
        (tmp_path / "other").write_text("new")
        (tmp_path / "other").replace(temporary)
    assert (tmp_path / "net.rsk").read_text() == "new"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing/net.rsk", "the folder .*missing does not exist; make it first"),
        ("file/net.rsk", "the folder .*file is not a folder"),
        ("folder.rsk", "is a folder, and a file is to be written there; move it elsewhere, or write to another place"),
        ("/dev/null", "is a device, a pipe or a link to nothing; a model is written to a plain file"),
        ("link.rsk", "is a device, a pipe or a link to nothing"),
        ("/proc/net.rsk", "cannot be written: .*Choose a folder that you can write to"),
    ],
)
def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path, path, said):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.rsk").mkdir()
    (tmp_path / "link.rsk").symlink_to("nothing")
    with pytest.raises(UsageError, match=f"^{tmp_path / path}: {said}"):
        write(tmp_path / path, force=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.rsk", "link.rsk"]


def test_a_full_disk_is_said_with_the_bytes_that_fitted(tmp_path):
    path = tmp_path / "net.rsk"
    with pytest.raises(UsageError, match=r"net\.rsk: the disk is full, .* more than the 3 bytes that fitted"):
        write(path, then=lambda: Path("/dev/full").write_text("rest"))
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fails_at_the_last_moment_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(UsageError, match="cannot be written: Input/output error"):
        write(tmp_path / "net.rsk")
    assert os.listdir(tmp_path) == []


def test_an_error_about_another_file_is_not_taken_for_ours(tmp_path):
    with pytest.raises(FileNotFoundError, match="compiler"):
        write(tmp_path / "net.rsk", then=(tmp_path / "compiler").read_text)
    assert os.listdir(tmp_path) == []


def write_files(path, names, force=False, dry_run=False):
    with staged(path, force, folder=True, dry_run=dry_run) as temporary:
        temporary.mkdir()
        for name in names:
            (temporary / name).write_text("new")
        settle(temporary, path, force)


def test_a_folder_takes_its_name_when_it_is_finished_and_replaces_an_old_one_with_force(tmp_path):
    path = tmp_path / "net.csource"
    write_files(path, ["a", "b"])
    with pytest.raises(UsageError, match=r"net\.csource: exists already"):
        write_files(path, ["a", "b"])
    write_files(path, ["a", "b", "c"], force=True)
    assert sorted(os.listdir(path)) == ["a", "b", "c"]
    assert os.listdir(tmp_path) == ["net.csource"]


def test_a_folder_with_other_files_is_kept(tmp_path):
    path = tmp_path / "net.csource"
    write_files(path, ["a", "mine"])
    with pytest.raises(UsageError, match="holds mine, which the new folder does not have; move it elsewhere"):
        write_files(path, ["a", "b"], force=True)
    assert sorted(os.listdir(path)) == ["a", "mine"]


def test_what_an_earlier_export_left_is_replaced(tmp_path):
    path = tmp_path / "net.csource"
    write_files(path, ["net.c", "net.bin", "rsk_conv.h"])
    write_files(path, ["net.c", "rsk_conv_s8.h"], force=True)
    assert sorted(os.listdir(path)) == ["net.c", "rsk_conv_s8.h"]


@pytest.mark.parametrize("mine", [["main.c"], ["main.c", "main.h"]], ids=" ".join)
def test_files_of_a_user_in_an_export_are_not_called_one(tmp_path, mine):
    write_files(tmp_path / "net.csource", ["net.c", "net.h", "rsk_conv.h", *mine])
    with pytest.raises(UsageError, match=r"holds main\.c, which the new folder does not have"):
        write_files(tmp_path / "net.csource", ["net.c", "net.h", "rsk_conv.h"], force=True)


def test_an_export_under_another_name_is_kept_and_named(tmp_path):
    path = tmp_path / "net.csource"
    write_files(path, ["net.c", "net.h", "rsk_conv.h"])
    with pytest.raises(UsageError, match="holds an export named net, which --name net replaces and one of another name does not; move it elsewhere or choose"):
        write_files(path, ["other.c", "other.h", "rsk_conv.h"], force=True)
    assert sorted(os.listdir(path)) == ["net.c", "net.h", "rsk_conv.h"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_place_of_a_folder_is_kept(tmp_path, force):
    (tmp_path / "net.csource").write_text("mine")
    with pytest.raises(UsageError, match=r"net\.csource: is a file, and a folder is to be written there; move it elsewhere"):
        write_files(tmp_path / "net.csource", ["a"], force=force)
    assert (tmp_path / "net.csource").read_text() == "mine"


def test_a_dry_run_refuses_the_same_and_leaves_nothing(tmp_path):
    write_files(tmp_path / "missing" / "net.csource", ["a"], dry_run=True)
    path = tmp_path / "net.csource"
    write_files(path, ["a", "mine"])
    with pytest.raises(UsageError, match="exists already"):
        write_files(path, ["a"], dry_run=True)
    with pytest.raises(UsageError, match="holds mine"):
        write_files(path, ["a"], force=True, dry_run=True)
    write_files(path, ["a", "mine", "b"], force=True, dry_run=True)
    assert os.listdir(tmp_path) == ["net.csource"]
    assert sorted(os.listdir(path)) == ["a", "mine"]
