"""Which nodes do not agree, and how that is said."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest
from dougong.control.handshake import AgentFacts, FolderFault, FolderTrouble, PackageCode
from dougong.errors import LaunchError
from dougong.planner.agreement import Software, check_agents

RULES = "dougong/training/optimizers"


def code(place: str = "/venv/dougong", **changed: str) -> dict[str, PackageCode]:
    """dougong's source there; `changed`: other digests, by the folder's last name."""
    digests = {"dougong": "aaaaaaaaaaaa", RULES: "bbbbbbbbbbbb"}
    for folder in digests:
        digests[folder] = changed.get(folder.rpartition("/")[2], digests[folder])
    return {"dougong": PackageCode(place, digests)}


def hello(node: str, found: dict[str, PackageCode] | None = None, **versions: str) -> AgentFacts:
    software = {"python": "3.11.7", "torch": "2.13.0", **versions}
    return AgentFacts("east", "east", node, 1, "cpu", None, software, {}, code=found or code())


def software(versions: dict[str, str], found: dict[str, PackageCode] | None = None) -> Software:
    return Software("head", versions, found or code())


HERE = software({"python": "3.11.7", "torch": "2.13.0"})


def refusal(agents: dict[str, AgentFacts], here: Software | None = HERE) -> list[str]:
    with pytest.raises(LaunchError) as caught:
        check_agents(agents, here)
    return str(caught.value).splitlines()


def test_a_version_skew_is_refused_with_a_table() -> None:
    check_agents({"east": hello("alpha"), "west": hello("beta")})
    lines = refusal({"east": hello("alpha"), "west": hello("beta", torch="2.12.1")}, None)
    assert "differ in torch;" in lines[0]
    assert lines[1].split() == ["node", "python", "torch*"]
    assert lines[2].split() == ["alpha", "(east)", "3.11.7", "2.13.0"]
    assert lines[3].split() == ["beta", "(west)", "3.11.7", "2.12.1"]


def test_the_launching_machine_is_one_of_those_that_must_agree() -> None:
    here = software({"python": "3.11.7", "torch": "2.13.0+cpu"})
    check_agents({"east": hello("alpha"), "west": hello("beta")}, here)  # another build of one release
    lines = refusal({"east": hello("alpha", torch="2.12.1")}, here)
    assert "differ in torch;" in lines[0]
    assert lines[2].split() == ["this", "machine", "(dougong", "run)", "3.11.7", "2.13.0+cpu"]
    assert lines[3].split() == ["alpha", "(east)", "3.11.7", "2.12.1"]
    with pytest.raises(LaunchError, match="differ in transformers;"):  # a package that one side lacks
        check_agents({"east": hello("alpha")}, software({**here.versions, "transformers": "5.23.0"}))


def test_other_source_under_the_same_version_is_refused_by_folder_and_machine() -> None:
    agents = {"east": hello("alpha"), "west": hello("beta", code("/opt/dougong", optimizers="cccccccccccc"))}
    lines = refusal(agents)
    assert lines[0].startswith(
        f"other source under the same version on beta (west): {RULES}; it may compute other bits"
    )
    assert lines[1].split() == ["node", RULES]
    assert lines[2].split() == ["this", "machine", "(dougong", "run)", "bbbbbbbb"]
    assert lines[3].split() == ["alpha", "(east)", "bbbbbbbb"]
    assert lines[4].split() == ["beta", "(west)", "cccccccc"]
    assert lines[-2] == "  on beta: rsync -a --delete --exclude=__pycache__ head:/venv/dougong/ /opt/dougong/"


def test_the_same_source_elsewhere_is_no_other_source() -> None:
    check_agents({"east": hello("alpha", code("/a/dougong")), "west": hello("beta", code("/b/dougong"))}, HERE)


def test_a_launching_machine_that_alone_has_other_source_is_the_one_to_mend() -> None:
    agents = {"east": hello("alpha"), "west": hello("beta")}
    lines = refusal(agents, software(dict(HERE.versions), code("/home/me/dougong", optimizers="c" * 12)))
    assert lines[0].startswith("other source under the same version on this machine (dougong run): ")
    assert lines[-2] == "  on head: rsync -a --delete --exclude=__pycache__ alpha:/venv/dougong/ /home/me/dougong/"


def test_a_node_without_the_folder_and_many_folders_are_told() -> None:
    many = PackageCode("/venv/dougong", {f"dougong/part{number}": "d" * 12 for number in range(9)})
    lines = refusal({"east": hello("alpha"), "west": hello("beta", {"dougong": many})})
    assert "and 6 more; it may compute" in lines[0]
    assert lines[4].split() == ["beta", "(west)", "-", *["dddddddd"] * 4]


def test_a_plug_in_is_compared_where_it_is_used() -> None:
    def with_plug_in(digest: str) -> dict[str, PackageCode]:
        return {**code(), "mlu": PackageCode("/venv/mlu", {"mlu": digest})}

    check_agents({"east": hello("alpha"), "west": hello("beta", with_plug_in("a"))}, HERE)
    lines = refusal({"east": hello("alpha", with_plug_in("b")), "west": hello("beta", with_plug_in("a"))})
    assert lines[0].startswith("other source under the same version on beta (west): mlu;")


def troubled(node: str, fault: FolderFault, **more: Any) -> AgentFacts:
    return replace(hello(node), trouble=FolderTrouble("/run", fault, **more))


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (troubled("beta", "absent"), "the run directory /run is not to be seen on beta; every node must reach it"),
        (
            troubled("beta", "other", mount="ext4 /dev/sda1", mount_here="nfs4 nas:/export"),
            "beta has another directory at /run (ext4 /dev/sda1 there, nfs4 nas:/export here): what this machine has "
            "just written is not in it; mount there what this machine has at that path (a copy will not do), or give "
            "a new run a --run-dir on storage that all of them share",
        ),
        (troubled("beta", "other", mount="ext4 a", mount_here="ext4 a"), "beta has another directory at /run: what"),
        (troubled("beta", "unanswered"), "what beta writes into /run is not seen on the machine of `dougong run`"),
        (
            troubled("beta", "unwritable", reason="Read-only file system", number=errno.EROFS, user=0),
            "/run cannot be written on beta: Read-only file system; mount it there for writing, or give a new",
        ),
        (
            troubled("beta", "unwritable", reason="Permission denied", number=errno.EACCES, user=65534),
            "/run cannot be written on beta by user 65534: Permission denied; let that user read and write there",
        ),
        (
            troubled("beta", "unwritable", reason="No space left on device", number=errno.ENOSPC, user=0),
            "/run cannot be written on beta: No space left on device; make room, or",
        ),
        (
            troubled("beta", "unreadable", reason="Stale file handle", number=errno.ESTALE),
            "/run cannot be read on beta: Stale file handle; mount it there anew, or mend it, or",
        ),
    ],
)
def test_a_node_that_does_not_share_the_run_directory_is_refused(trouble: AgentFacts, expected: str) -> None:
    with pytest.raises(LaunchError) as caught:
        check_agents({"east": hello("alpha"), "west": trouble})
    assert str(caught.value).startswith(expected)


def test_a_run_directory_that_several_nodes_lack_is_one_sentence() -> None:
    lacking = {
        "west-0": troubled("beta", "absent"),
        "west-4": troubled("beta", "absent"),
        "south": troubled("gamma", "absent"),
    }
    (line,) = refusal({"east": hello("alpha"), **lacking})
    assert line.startswith("the run directory /run is not to be seen on beta, gamma; every node must reach it")
    (line,) = refusal(lacking)  # all but the machine of the command: the mistake is most likely here
    assert line.startswith("the run directory /run is here alone, and not on beta, gamma: it is not the storage")
    (line,) = refusal({**lacking, "east": troubled("alpha", "unanswered")})
    assert line.count("what alpha writes into /run") == line.count("not to be seen on beta, gamma") == 1


def test_files_of_the_job_that_a_node_lacks_are_named_with_the_node() -> None:
    west = replace(hello("beta"), absent=("/d/text.txt", "/m/tiny"))
    agents = {"east": hello("alpha"), "west-0": west, "west-4": west}
    (line,) = refusal(agents)
    assert line == (
        "/d/text.txt is here and not on beta; /m/tiny is here and not on beta: every node reads the job's files "
        "itself; put them there under the same path, or name files on storage that all nodes share"
    )


def test_an_island_s_library_must_be_told_the_same_everywhere() -> None:
    def there(node: str, **variables: str) -> AgentFacts:
        return replace(hello(node), accelerator="cuda", environment=variables)

    ring = there("alpha", NCCL_ALGO="Ring", CUBLAS_WORKSPACE_CONFIG=":4096:8")
    check_agents({"east-0": ring, "east-2": there("beta", NCCL_ALGO="Ring")})
    check_agents({"east": ring, "west": replace(there("beta"), island="west")})  # another library
    (line,) = refusal({"east-0": ring, "east-2": there("beta")}, None)
    assert line.startswith(
        "island east: NCCL_ALGO is Ring on alpha, not set on beta, and all its workers must have one;"
    )
