"""The register of models: versions, aliases, retiring, lineage, names, teams; on both engines."""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from cerulea.core.clock import DAY_MS, FakeClock
from cerulea.core.errors import Conflict, Invalid, NotFound
from cerulea.registry import Registry, Version, check_name, checked_manifest, manifest_digest
from cerulea.store.database import Database, Tx

HOSTILE = [
    *(
        "",
        ".",
        "..",
        "...",
        "-",
        "-rf",
        "--help",
        "_x",
        ".hidden",
        ".git",
        "~",
        "~root",
        "/",
        "//",
        "\\",
        "\\\\host\\x",
    ),
    *("../x", "..\\x", "x/../y", "x/..", "./x", "/etc/passwd", "C:\\x", "C:x", "x/y", "x\\y", "%2e%2e%2fx", "..%2fx"),
    *("x\0", "\0", "x\n", "x\r\n", "\tx", " x", "x ", "a b", "x;y", "x|y", "$HOME", "`id`", "x*", "x?", "a:b", "a@1"),
    *("\u2025/x", "\uff0e\uff0e", "\u2215x", "brök", "\u202ecod", "x" * 101, "x" * 10_000, "١", "a\u0301", "{x}"),
    *("<x>", "'x'", '"x"', "x'; DROP TABLE model; --"),
]


def manifest(text: str = "weights") -> dict:
    entry = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
    return {"config.json": entry, "model.safetensors": entry}


def add(registry: Registry, name: str = "brook", text: str = "weights", **changes) -> Version:
    files = manifest(text)
    known = {"card": {"parameters": 7}, "team": "home", "actor": "ada", **changes}
    return registry.register(name, manifest=files, digest=manifest_digest(files), **known)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def registry(database: Database, clock: FakeClock) -> Registry:
    return Registry(database, clock)


def test_a_version_is_what_was_registered(registry: Registry, clock: FakeClock):
    made = add(registry, run="brook-1", job="job-1", corpus="c0ffee", card={"name": "Bäch", "loss": float("nan")})

    assert made == registry.resolve("brook") == registry.resolve("brook@1") == registry.version("brook", 1)
    assert (made.label, made.team, made.actor, made.created_at) == ("brook@1", "home", "ada", clock.now())
    assert made.manifest == manifest()
    assert made.card == {"name": "Bäch", "loss": None}
    assert (made.run, made.job, made.corpus, made.parent, made.retired_at) == ("brook-1", "job-1", "c0ffee", None, None)


def test_versions_count_up_by_name(registry: Registry):
    labels = [add(registry, name, text).label for name, text in (("a", "1"), ("b", "1"), ("a", "2"), ("a", "3"))]

    assert labels == ["a@1", "b@1", "a@2", "a@3"]
    assert [v.label for v in registry.versions("a")] == ["a@1", "a@2", "a@3"]
    assert [v.label for v in registry.versions()] == ["a@1", "a@2", "a@3", "b@1"]


def test_who_lost_the_answer_registers_again_and_gets_the_same_version(registry: Registry):
    first = add(registry, run="r1")

    assert add(registry, run="r1") == first
    assert add(registry, run="r2").version == 2
    assert add(registry, run="r1").version == 3  # not the newest any more: it is a new turn
    assert add(registry, text="other", run="r1").version == 4


def test_versions_have_no_gap_when_many_register_at_once(registry: Registry):
    """Eight threads, 40 versions of one name, on each engine."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: add(registry, text=f"weights {i}", run=f"r{i}"), range(40)))

    assert sorted(v.version for v in made) == list(range(1, 41))
    assert {v.version: v.run for v in made} == {v.version: v.run for v in registry.versions("brook")}


def test_one_of_many_that_register_the_same_at_once_makes_the_version(registry: Registry):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: add(registry, run="r"), range(16)))

    assert {v.version for v in made} == {1}
    assert len(registry.versions("brook")) == 1


def test_a_version_may_bring_its_number_if_it_is_above_the_newest(registry: Registry):
    """Models that had numbers before the registry keep them."""
    assert add(registry, number=3).version == 3
    assert add(registry, number=3).version == 3

    with pytest.raises(Conflict, match="newest version is 3"):
        add(registry, text="other", number=2)
    assert add(registry, text="other").version == 4


def test_a_registration_stands_or_falls_with_its_transaction(registry: Registry, database: Database):
    def work(tx: Tx) -> None:
        assert add(registry, tx=tx).version == 1
        raise ValueError

    with pytest.raises(ValueError):
        database.write(work)

    assert registry.models() == []
    assert database.write(lambda tx: add(registry, tx=tx)).version == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_everywhere(name: str):
    """Names that would leave a folder, hide, read as an option or look like another name."""
    with pytest.raises(Invalid, match="cannot name a model"):
        check_name(name)
    with pytest.raises(Invalid, match="cannot name a file"):
        checked_manifest({name: manifest()["config.json"]})


def test_there_are_fifty_hostile_names():
    assert len(set(HOSTILE)) >= 50


def test_a_hostile_name_resolves_to_nothing(registry: Registry):
    add(registry, "x")
    add(registry, "etc")

    for name in HOSTILE:
        for label in (name, f"x@{name}", f"x:{name}", f"{name}@1"):
            if label in ("x@", "x:"):
                continue
            with pytest.raises(NotFound):
                registry.resolve(label)
        with pytest.raises(Invalid):
            add(registry, name)
        with pytest.raises(Invalid):
            registry.alias("x", name, 1, "ada")
    assert [m.model for m in registry.models()] == ["etc", "x"]


@pytest.mark.parametrize("label", ["x@", "x:", "x@0", "x@-1", "x@01", "x@1.0", "x@1e0", "x@ 1", "x@²", "x@" + "9" * 40])
def test_a_label_is_never_guessed(registry: Registry, label: str):
    add(registry, "x")

    with pytest.raises(NotFound):
        registry.resolve(label)


@pytest.mark.parametrize(
    "entry",
    [
        *({}, {"sha256": "x", "bytes": 1}, {"sha256": "A" * 64, "bytes": 1}, {"sha256": "a" * 64, "bytes": -1}),
        *({"sha256": "a" * 64, "bytes": True}, {"sha256": "a" * 64, "bytes": "1"}, {"sha256": 5, "bytes": 1}),
    ],
)
def test_an_entry_of_a_manifest_is_a_digest_and_a_length(entry: dict):
    with pytest.raises(Invalid):
        checked_manifest({"config.json": entry})


def test_a_manifest_names_a_file():
    with pytest.raises(Invalid, match="no file"):
        checked_manifest({})


def test_an_unknown_model_names_the_nearest(registry: Registry):
    add(registry)

    with pytest.raises(NotFound, match="nearest name is 'brook'"):
        registry.resolve("broook@2")
    with pytest.raises(NotFound, match=r"no version 2.*newest versions are 1"):
        registry.resolve("brook@2")


def test_an_alias_names_a_version_until_it_is_moved(registry: Registry, clock: FakeClock):
    add(registry), add(registry, text="2")

    registry.alias("brook", "prod", 1, "ada")
    assert registry.resolve("brook:prod").version == 1
    clock.advance(DAY_MS)
    move = registry.alias("brook", "prod", 2, "bob")

    assert registry.resolve("brook:prod").version == 2
    assert (move.before, move.after, move.actor, move.at) == (1, 2, "bob", clock.now())
    assert registry.models()[0].aliases == {"prod": 2}


def test_who_was_prod_on_a_day(registry: Registry, clock: FakeClock):
    """prod is 1 on days 1 and 2, then 2, from day 5 on nothing, from day 6 on 1 again."""
    add(registry), add(registry, text="2")
    start = clock.now()
    for day, version in ((1, 1), (3, 2), (5, None), (6, 1)):
        clock.jump(start + day * DAY_MS - clock.now())
        registry.alias("brook", "prod", version, "ada")

    found = [registry.alias_at("brook", "prod", start + day * DAY_MS) for day in range(8)]

    assert [v and v.version for v in found] == [None, 1, 1, 2, 2, None, 1, 1]
    assert [(m.before, m.after) for m in registry.alias_history("brook", "prod")] == [
        (None, 1),
        (1, 2),
        (2, None),
        (None, 1),
    ]
    assert registry.alias_history("brook", "other") == []


def test_the_history_of_an_alias_stays_in_order_when_the_clock_is_set_back(registry: Registry, clock: FakeClock):
    add(registry), add(registry, text="2")
    registry.alias("brook", "prod", 1, "ada")
    moment = clock.now()
    clock.jump(-DAY_MS)

    registry.alias("brook", "prod", 2, "ada")

    assert [m.at for m in registry.alias_history("brook")] == [moment, moment]
    assert registry.alias_at("brook", "prod", moment).version == 2
    assert registry.alias_at("brook", "prod", clock.now()) is None


def test_an_alias_that_stays_where_it_is_makes_no_history(registry: Registry):
    add(registry)
    registry.alias("brook", "prod", 1, "ada")

    registry.alias("brook", "prod", 1, "ada")

    assert len(registry.alias_history("brook", "prod")) == 1


def test_an_unknown_alias_names_the_nearest(registry: Registry):
    add(registry)
    registry.alias("brook", "prod", 1, "ada")

    with pytest.raises(NotFound, match="nearest is 'prod'"):
        registry.resolve("brook:prd")
    with pytest.raises(NotFound, match="no alias 'stage'"):
        registry.alias("brook", "stage", None, "ada")
    with pytest.raises(NotFound, match="no version 9"):
        registry.alias("brook", "prod", 9, "ada")
    with pytest.raises(NotFound, match="no model 'creek'"):
        registry.alias("creek", "prod", 1, "ada")


def test_a_retired_version_is_refused_with_the_newest_that_is_not(registry: Registry, clock: FakeClock):
    for text in "123":
        add(registry, text=text)

    retired = registry.retire("brook", 3, "ada")

    assert (retired.retired_at, retired.retired_by) == (clock.now(), "ada")
    with pytest.raises(NotFound, match=r"brook@3 is retired.*brook@2"):
        registry.resolve("brook@3")
    assert registry.resolve("brook").version == 2
    assert add(registry, text="4").version == 4
    assert [v.version for v in registry.versions("brook", retired=False)] == [1, 2, 4]
    with pytest.raises(NotFound, match="is retired"):
        registry.alias("brook", "prod", 3, "ada")
    assert registry.unretire("brook", 3).retired_at is None
    assert registry.resolve("brook@3").version == 3


def test_when_all_are_retired_the_name_says_so(registry: Registry):
    add(registry)
    registry.retire("brook", 1, "ada")

    with pytest.raises(NotFound, match="Every version of brook is retired"):
        registry.resolve("brook")
    with pytest.raises(NotFound, match="So is every other"):
        registry.resolve("brook@1")
    assert registry.models()[0].newest == 0


def test_a_version_that_an_alias_names_cannot_be_retired(registry: Registry):
    add(registry)
    registry.alias("brook", "prod", 1, "ada")

    with pytest.raises(Conflict, match="brook@1 is prod"):
        registry.retire("brook", 1, "ada")

    registry.alias("brook", "prod", None, "ada")
    assert registry.retire("brook", 1, "ada").retired_at
    assert registry.alias_at("brook", "prod", 2**61) is None


def test_an_alias_and_a_retirement_at_once_never_leave_an_alias_of_a_retired_version(registry: Registry):
    """Twelve versions become prod and are retired at once; prod was a thirteenth."""
    for i in range(13):
        add(registry, text=str(i))
    registry.alias("brook", "prod", 13, "ada")

    def either(turn: int) -> None:
        version = turn // 2 + 1
        with contextlib.suppress(NotFound, Conflict):
            registry.alias("brook", "prod", version, "ada") if turn % 2 else registry.retire("brook", version, "ada")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(either, range(24)))

    assert registry.resolve("brook:prod").retired_at is None


def test_lineage_goes_up_to_the_first_and_down_one_step(registry: Registry):
    base = add(registry, "base", corpus="web", run="r0")
    tuned = add(registry, "tuned", text="t", parent=base.label, corpus="talk", run="r1", job="job-1")
    chat = add(registry, "chat", text="c", parent=tuned.label)
    other = add(registry, "other", text="o", parent="base@1")

    line = registry.lineage(chat)

    assert [v.label for v in line.parents] == ["tuned@1", "base@1"]
    assert line.children == []
    assert registry.lineage(base).children == [other, tuned]
    found = registry.lineage(tuned)
    assert (found.corpus, found.run, found.job) == ("talk", "r1", "job-1")
    for parent in ("base", "base@9", "nobody@1", "../x@1"):
        with pytest.raises(NotFound):
            add(registry, "lost", parent=parent)


def test_what_belongs_to_another_team_does_not_exist(registry: Registry):
    mine = add(registry, "mine", team="red")
    theirs = add(registry, "theirs", text="2", team="blue", parent=mine.label)
    registry.alias("theirs", "prod", 1, "eve")

    for ask in (
        lambda: registry.resolve("theirs", teams=["red"]),
        lambda: registry.resolve("theirs@1", teams=["red"]),
        lambda: registry.resolve("theirs:prod", teams=["red"]),
        lambda: registry.version("theirs", 1, teams=["red"]),
        lambda: registry.versions("theirs", teams=["red"]),
        lambda: registry.alias("theirs", "prod", 1, "ada", teams=["red"]),
        lambda: registry.alias_history("theirs", teams=["red"]),
        lambda: registry.alias_at("theirs", "prod", 2**61, teams=["red"]),
        lambda: registry.retire("theirs", 1, "ada", teams=["red"]),
        lambda: registry.unretire("theirs", 1, teams=["red"]),
    ):
        with pytest.raises(NotFound) as refusal:
            ask()
        with pytest.raises(NotFound) as unknown:
            registry.resolve("thiers", teams=["red"])
        assert (
            str(refusal.value).replace("theirs", "thiers").split("'thiers")[0] == str(unknown.value).split("'thiers")[0]
        )
        assert "blue" not in str(refusal.value)
    assert [m.model for m in registry.models(teams=["red"])] == ["mine"]
    assert [v.label for v in registry.versions(teams=["red"])] == ["mine@1"]
    assert registry.lineage(mine, teams=["red"]).children == []
    assert registry.lineage(theirs, teams=["blue"]).parents == []
    assert registry.models(teams=[]) == []


def test_a_name_belongs_to_the_team_that_took_it(registry: Registry):
    add(registry, team="red")

    with pytest.raises(Conflict, match="is taken"):
        add(registry, text="2", team="blue")


def test_the_database_refuses_to_rewrite_an_aliass_past(registry: Registry, database: Database):
    add(registry)
    registry.alias("brook", "prod", 1, "ada")

    for statement in ("UPDATE alias_event SET actor = 'eve'", "DELETE FROM alias_event"):
        with pytest.raises(Exception, match="append-only"):
            database.write(lambda tx, statement=statement: tx.run(statement))
