"""Which files a recipe may name: roots, links, globs, and paths that are nowhere."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerulea.core.errors import CeruleaError, CorpusInvalid, PathRefused, TokenizerInvalid
from cerulea.core.settings import Settings, read_settings
from cerulea.flows.agent import name_here
from cerulea.flows.link import Link
from cerulea.flows.perform import perform
from cerulea.flows.platform import Platform, open_platform
from cerulea.flows.roots import check_at_start, check_named, paths_of, resolved
from cerulea.flows.submit import Wish, estimate, rerun, submit
from cerulea.flows.work import Desk
from cerulea.jobs.job import Job
from cerulea.jobs.protocol import Assignment, Order
from cerulea.people import Caller
from cerulea.train.recipe import recipe_from
from tests.serving import key_for


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that is opened to jobs: a text, and links that lead out of it."""
    folder = tmp_path / "home" / "data"
    (folder / "books").mkdir(parents=True)
    (folder / "books" / "sea.txt").write_text("the sea", encoding="utf-8")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret", encoding="utf-8")
    (outside / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "away").symlink_to(outside)
    (folder / "secret.txt").symlink_to(outside / "secret.txt")
    (folder / "inside.txt").symlink_to(folder / "books" / "sea.txt")
    (folder / "round").symlink_to(folder / "round")
    return folder


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with open_platform(read_settings({}, home=tmp_path / "home")) as opened:
        yield opened


def wish(*train: str, **keys: dict) -> Wish:
    data = {"train": list(train)} if train else {}
    return Wish(recipe={"kind": "text", "name": "brook", "train": {"steps": 2}, "data": data, **keys})


def caller(platform: Platform, role: str, **more: object) -> Caller:
    return platform.people.authenticate(key_for(platform, role, **more))


OUTSIDE = [
    "/etc/hostname",
    "/",
    "{root}/..",
    "{root}/../core.db",
    "{root}/books/../../core.db",
    "{root}/./../data/../lease.secret",
    "{root}/secret.txt",
    "{root}/away",
    "{root}/away/secret.txt",
    "{root}/away/*.txt",
    "{root}/away/**",
    "{root}/*/../../core.db",
    "{root}/**/../../../outside/secret.txt",
    "{root}/[a]way/../../outside/*",
    "{root}/round",
    "{root}/round/x.txt",
    "{root}x/sea.txt",
    "~/x.txt",
    "~root/x.txt",
    "~nobody-of-that-name/x.txt",
    "books/sea.txt",
    "../x.txt",
    "file:///etc/passwd",
    "/proc/self/environ",
    "/dev/stdin",
]


@pytest.mark.parametrize("entry", OUTSIDE)
@pytest.mark.parametrize("key", ["train", "valid", "folder"])
def test_nobody_but_an_admin_names_a_path_outside_the_roots(platform: Platform, root: Path, entry: str, key: str):
    path = entry.format(root=root)
    asked = {
        "train": wish(path),
        "valid": wish(data={"valid": [path]}),
        "folder": wish("stdlib", tokenizer={"kind": "hf", "folder": path}),
    }[key]

    for role in ("developer", "operator"):
        for ask in (submit, estimate):
            with pytest.raises(PathRefused) as refused:
                ask(platform, caller(platform, role), asked)
            assert (refused.value.code, refused.value.exit_code) == ("E-AUTH-005", 4)
            assert str(root) in refused.value.why and "CERULEA_DATA_ROOTS" in refused.value.fix


@pytest.mark.parametrize(
    "entry", ["{root}", "{root}/books", "{root}/books/*.txt", "{root}/**/*.txt", "{root}/inside.txt"]
)
def test_everybody_names_what_lies_in_the_roots(platform: Platform, root: Path, entry: str):
    assert submit(platform, caller(platform, "developer"), wish(entry.format(root=root))).status == "QUEUED"


def test_admins_and_whoever_sits_at_the_machine_name_any_path(platform: Platform, root: Path, tmp_path: Path):
    """A one-person install notices nothing; a narrowed key of an admin is bound like everybody's."""
    path = str(tmp_path / "outside" / "secret.txt")

    for who in (caller(platform, "admin"), platform.people.caller()):
        assert submit(platform, who, wish(path)).status == "QUEUED"
    with pytest.raises(PathRefused):
        submit(platform, caller(platform, "admin", scopes=("jobs:read", "jobs:write")), wish(path))
    assert submit(platform, caller(platform, "developer"), wish("stdlib")).status == "QUEUED"


def test_an_operators_list_replaces_the_default(platform: Platform, root: Path, tmp_path: Path):
    settings = read_settings({"CERULEA_DATA_ROOTS": f"{tmp_path}/outside:{tmp_path}/more"}, home=tmp_path / "home")
    opened = dataclasses.replace(platform, settings=settings)
    who = caller(platform, "developer")

    assert submit(opened, who, wish(str(tmp_path / "outside" / "secret.txt"))).status == "QUEUED"
    with pytest.raises(PathRefused, match=r"outside.*more"):
        submit(opened, who, wish(str(root / "books")))


def test_a_rerun_is_judged_by_who_asks_for_it(platform: Platform, root: Path, tmp_path: Path):
    first = submit(platform, caller(platform, "admin"), wish(str(tmp_path / "outside")))

    with pytest.raises(PathRefused):
        rerun(platform, caller(platform, "developer"), first.id)
    assert rerun(platform, caller(platform, "admin"), first.id).rerun_of == first.id


def test_a_refusal_is_the_same_whether_something_is_there_or_not(platform: Platform, root: Path):
    """Who may not read outside the roots does not learn what is there."""
    words = set()
    for path in ("/etc/hostname", "/etc/hostnome", "/nowhere/at/all"):
        with pytest.raises(PathRefused) as refused:
            submit(platform, caller(platform, "developer"), wish(path))
        words.add(str(refused.value).replace(path, "PATH"))

    assert len(words) == 1


# -- at the start, on the worker ---------------------------------------------------------------------


def assigned(platform: Platform, job: Job) -> Assignment:
    desk = Desk(platform)
    desk.enlist(f"w-{job.id}", name="elsewhere:1", slots=1, device="cpu", kinds=("text",))
    desk.place(job, {f"w-{job.id}": 1})
    (given,) = desk.claim(f"w-{job.id}")
    return given


def test_a_link_that_was_put_there_later_leads_nowhere(platform: Platform, root: Path, tmp_path: Path):
    """At submit a text lay there; at the start there is a link, in the folder or of the folder itself."""
    inside, settings = root / "books", platform.settings
    who = caller(platform, "developer")
    given = [assigned(platform, submit(platform, who, wish(e))) for e in (str(inside), f"{inside}/*.txt")]
    for assignment in given:
        check_at_start(assignment, settings)

    (inside / "more.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    for assignment in given:
        with pytest.raises(PathRefused, match="outside the folders"):
            check_at_start(assignment, settings)
    (inside / "more.txt").unlink()
    inside.rename(root / "moved")
    inside.symlink_to(tmp_path / "outside")
    for assignment in given:
        with pytest.raises(PathRefused):
            check_at_start(assignment, settings)


def test_a_tokenizers_files_are_looked_at_one_by_one(platform: Platform, root: Path, tmp_path: Path):
    folder = root / "tokens"
    folder.mkdir()
    asked = wish("stdlib", tokenizer={"kind": "hf", "folder": str(folder)})
    given = assigned(platform, submit(platform, caller(platform, "developer"), asked))
    check_at_start(given, platform.settings)

    (folder / "tokenizer.json").symlink_to(tmp_path / "outside" / "tokenizer.json")

    with pytest.raises(PathRefused, match=r"tokenizer\.folder"):
        check_at_start(given, platform.settings)


def test_whoever_is_no_admin_any_more_is_bound_at_the_start(platform: Platform, root: Path, tmp_path: Path):
    path = str(tmp_path / "outside")
    whole = assigned(platform, submit(platform, caller(platform, "admin"), wish(path)))
    later = submit(platform, caller(platform, "admin"), wish(path))
    platform.people.join("admin-home", team="home", role="developer", actor="owner")
    bound = assigned(platform, later)
    here = assigned(platform, submit(platform, platform.people.caller(), wish(path)))

    check_at_start(whole, platform.settings)
    check_at_start(here, platform.settings)
    assert (whole.bound, bound.bound, here.bound) == (False, True, False)
    with pytest.raises(PathRefused):
        check_at_start(bound, platform.settings)


class Listens:
    """A desk that says go on, and keeps the ending."""

    def __init__(self) -> None:
        self.ending: object = None
        self.told = threading.Event()

    def heartbeat(self, *_: object) -> Order:
        return Order()

    def record(self, *_: object) -> None:
        pass

    def finish(self, job: str, token: str, ending: object) -> None:
        self.ending = ending


def test_the_workers_refusal_is_the_submitters_fault_and_is_not_tried_again(
    platform: Platform, root: Path, tmp_path: Path
):
    """The worker's own roots count: it is given other ones than the platform has."""
    given = assigned(platform, submit(platform, caller(platform, "developer"), wish(str(root / "books"))))
    settings = Settings(home=tmp_path / "worker")
    desk = Listens()
    link = Link(desk, given)
    link.start()

    with pytest.raises(PathRefused, match="worker/data"):
        list(perform(link, settings))

    assert (desk.ending.outcome, desk.ending.reason) == ("failed", "user_error")
    assert "worker/data" in desk.ending.detail


def test_every_path_key_of_a_recipe_is_known():
    """A key whose help speaks of files or folders is marked as a path."""
    recipe = recipe_from(
        wish("/a", data={"train": ["/a", "stdlib"], "valid": ["/b"]}, tokenizer={"folder": "/c"}).recipe
    )

    assert sorted(paths_of(recipe)) == [("data.train", "/a"), ("data.valid", "/b"), ("tokenizer.folder", "/c")]
    with pytest.raises(PathRefused, match="They are: none"):
        check_named(recipe, resolved([]))


# -- nothing is there --------------------------------------------------------------------------------


def test_a_path_that_is_nowhere_is_refused_at_submit_with_the_nearest(platform: Platform, root: Path):
    """`up` with its own worker: what is not on this machine is nowhere."""
    Desk(platform).enlist("w", name=name_here(), slots=1, device="cpu", kinds=("text",))

    for who in (platform.people.caller(), caller(platform, "developer"), caller(platform, "admin")):
        with pytest.raises(CorpusInvalid) as refused:
            submit(platform, who, wish(f"{root}/boks/sea.txt"))
        assert refused.value.code == "E-CORPUS-001"
        assert f"'{root}/books/sea.txt'" in refused.value.why
        with pytest.raises(CorpusInvalid):
            submit(platform, who, wish(f"{root}/{'a' * 5000}"))
        with pytest.raises(TokenizerInvalid, match=r"tokenizer\.folder"):
            submit(platform, who, wish("stdlib", tokenizer={"kind": "hf", "folder": f"{root}/nothing"}))
        assert submit(platform, who, wish(f"{root}/books/*.txt")).status == "QUEUED"


def test_the_nearest_name_is_not_looked_for_outside_the_roots(platform: Platform, tmp_path: Path):
    """The root itself is not there yet: its neighbours are nobody's to see."""
    Desk(platform).enlist("w", name=name_here(), slots=1, device="cpu", kinds=("text",))
    (tmp_path / "home" / "datta").mkdir()

    with pytest.raises(CorpusInvalid) as refused:
        submit(platform, caller(platform, "developer"), wish(str(platform.settings.roots[0] / "x.txt")))

    assert "datta" not in str(refused.value)


def test_a_worker_elsewhere_may_have_what_is_not_here(platform: Platform, root: Path):
    desk, path = Desk(platform), f"{root}/nothing.txt"
    who, here = caller(platform, "developer"), platform.people.caller()

    assert submit(platform, who, wish(path)).status == "QUEUED", "no worker is known yet"
    with pytest.raises(CeruleaError):
        submit(platform, here, wish(path))
    desk.enlist("w", name=name_here(), slots=1, device="cpu", kinds=("text",))
    with pytest.raises(CeruleaError):
        submit(platform, who, wish(path))
    desk.enlist("far", name="elsewhere:12@x-1", slots=1, device="cpu", kinds=("text",))
    for one in (who, here):
        assert submit(platform, one, wish(path)).status == "QUEUED"
    platform.workers.mark("far", "gone")
    assert submit(platform, who, wish(path)).status == "QUEUED", "it may come back"
    platform.database.write(lambda tx: tx.run("UPDATE worker SET seen_at = 0 WHERE id = 'far'"))
    with pytest.raises(CeruleaError):
        submit(platform, who, wish(path))
