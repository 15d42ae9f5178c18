"""Teams, persons, roles, keys and the log, on both engines."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cerulea.core.clock import DAY_MS, FakeClock
from cerulea.core.errors import Conflict, Invalid, KeyEnded, KeyUnknown, NotFound, RoleLacks
from cerulea.people import EVERYWHERE, ROLES, SCOPES, Caller, People, new_key, read_key
from cerulea.store.database import Database, Tx


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def people(database: Database, clock: FakeClock) -> People:
    made = People(database, clock)
    made.ensure_owner()
    return made


def issue(people: People, role: str = "developer", **changes) -> str:
    """A key for a new person of that role in a new team."""
    number = len(people.persons())
    people.create_team(f"team-{number}", fund="home", actor="owner")
    people.create_person(f"person-{number}", team=f"team-{number}", role=role, actor="owner")
    known = {"team": f"team-{number}", "name": "laptop", "actor": "owner", **changes}
    return people.create_key(f"person-{number}", **known)[0]


# The table of roles


def test_the_table_of_roles_is_this_one():
    """The whole table, so that a change of it is seen; a scope that is not here is denied."""
    rows = {name: [scope for scope in SCOPES if scope in scopes] for name, scopes in ROLES.items()}

    assert rows == {
        "viewer": ["jobs:read", "fund:read", "models:read", "matches:read"],
        "developer": [
            *("jobs:read", "jobs:write", "fund:read", "models:read", "models:write", "matches:read", "matches:write")
        ],
        "operator": [
            *("jobs:read", "jobs:write", "fund:read", "models:read", "models:write", "matches:read", "matches:write"),
            *("people:read", "audit:read"),
        ],
        "finance": ["fund:read", "fund:write", "people:read", "audit:read"],
        "admin": [scope for scope in SCOPES if scope != "work"],
        "service": ["models:read", "work"],
    }
    assert all(scopes <= set(SCOPES) for scopes in ROLES.values())
    assert set(ROLES) >= EVERYWHERE


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_caller_may_what_the_role_names_and_nothing_else(role: str, scope: str):
    caller = Caller(person="ada", team="red", role=role, scopes=ROLES[role])

    assert caller.may(scope) is (scope in ROLES[role])
    if caller.may(scope):
        caller.need(scope)
    else:
        with pytest.raises(RoleLacks, match=f"ada is {role} in team red.*{scope}"):
            caller.need(scope)


def test_a_narrowed_key_says_that_it_is_the_key():
    caller = Caller(person="ada", team="red", role="developer", key="abcdefgh", scopes=frozenset({"jobs:read"}))

    with pytest.raises(RoleLacks, match="key ck_abcdefgh does not include jobs:write"):
        caller.need("jobs:write")


def test_a_scope_that_does_not_exist_is_a_bug():
    with pytest.raises(AssertionError):
        Caller(person="ada", team="red", role="admin", scopes=ROLES["admin"]).may("jobs:everything")


def test_who_sees_all_teams():
    seen = {role: Caller(person="a", team="red", role=role, scopes=ROLES[role]).teams for role in ROLES}

    assert seen == {
        **{"viewer": ("red",), "developer": ("red",)},
        **{"operator": None, "finance": None, "admin": None, "service": None},
    }


# The text of a key


def test_a_key_reads_back_and_no_two_are_equal():
    keys = [new_key() for _ in range(200)]

    assert all(read_key(key.text) == read_key(f"Bearer {key.text}") == key for key in keys)
    assert len({key.prefix for key in keys}) == len({key.text for key in keys}) == 200
    assert all(len(key.text) == len("ck_") + 8 + 1 + 32 + 1 + 8 for key in keys)


def test_every_single_mistyped_letter_is_noticed_without_a_database():
    text = new_key().text

    for i in range(len(text)):
        with pytest.raises(KeyUnknown):
            read_key(f"{text[:i]}{'b' if text[i] != 'b' else 'c'}{text[i + 1 :]}")


@pytest.mark.parametrize(
    "bearer", ["", "Bearer", "Bearer ", "Basic dXNlcg==", "sk-123", "ck_", "ck_a_b_c", "\0", "x" * 9999]
)
def test_what_is_no_key_is_refused_and_not_repeated(bearer: str):
    with pytest.raises(KeyUnknown) as refusal:
        read_key(bearer)

    assert len(bearer) < 5 or bearer.removeprefix("Bearer").strip() == "" or bearer not in str(refusal.value)


def test_a_keys_text_is_not_in_its_repr():
    key = new_key()

    assert key.text not in repr(key) and key.text[12:44] not in repr(key)


# A fresh platform


def test_a_fresh_platform_has_an_owner_at_home(people: People):
    assert [(t.name, t.fund, t.weight, t.borrows) for t in people.teams()] == [("home", "home", 1, True)]
    assert [(p.name, p.roles) for p in people.persons()] == [("owner", {"home": "admin"})]
    assert people.caller().scopes == ROLES["admin"]
    assert people.caller().actor == "owner"


def test_two_programs_that_start_at_once_make_one_owner(database: Database, clock: FakeClock):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: People(database, clock).ensure_owner(), range(8)))

    assert len(People(database, clock).persons()) == 1


def test_an_owner_who_left_does_not_come_back_by_a_restart(people: People):
    people.create_person("ada", team="home", role="admin", actor="owner")
    people.leave("owner", team="home", actor="ada")

    people.ensure_owner()

    assert {p.name: p.roles for p in people.persons()} == {"ada": {"home": "admin"}, "owner": {}}
    with pytest.raises(NotFound):
        people.caller()


# Teams and persons


def test_a_team_has_a_fund_and_a_share(people: People):
    made = people.create_team("red", fund="lab", weight=3, slots=2, borrows=False, actor="owner")

    assert (made.fund, made.weight, made.slots, made.borrows) == ("lab", 3, 2, False)
    assert people.team("red") == made
    changed = people.change_team("red", weight=5, borrows=True, actor="owner")
    assert (changed.weight, changed.slots, changed.borrows) == (5, 2, True)
    assert [t.name for t in people.teams()] == ["home", "red"]
    assert [t.name for t in people.teams(teams=["red"])] == ["red"]


def test_a_team_that_cannot_be_is_refused(people: People):
    people.create_team("red", fund="lab", actor="owner")

    with pytest.raises(Conflict):
        people.create_team("red", fund="lab", actor="owner")
    for changes in ({"weight": 0}, {"weight": -1}, {"slots": -1}, {"weight": 10**12}):
        with pytest.raises(Invalid):
            people.create_team("blue", fund="lab", actor="owner", **changes)
        with pytest.raises(Invalid):
            people.change_team("red", actor="owner", **changes)
    for name in ("", "../x", "a b", "x" * 101, "é"):
        with pytest.raises(Invalid):
            people.create_team(name, fund="lab", actor="owner")
    with pytest.raises(NotFound):
        people.change_team("blue", weight=2, actor="owner")
    with pytest.raises(NotFound):
        people.team("blue")


def test_a_person_has_a_role_in_each_team(people: People):
    people.create_team("red", fund="lab", actor="owner")
    people.create_person("ada@lab.org", team="home", role="viewer", actor="owner")
    people.join("ada@lab.org", team="red", role="finance", actor="owner")
    people.join("ada@lab.org", team="home", role="developer", actor="owner")

    (ada,) = [p for p in people.persons() if p.name == "ada@lab.org"]
    assert ada.roles == {"home": "developer", "red": "finance"}
    assert [(p.name, p.roles) for p in people.persons(teams=["red"])] == [("ada@lab.org", {"red": "finance"})]
    assert people.caller("ada@lab.org", "red").role == "finance"


def test_a_person_who_cannot_be_is_refused(people: People):
    for name in ("", "-x", "a b", "../x", "a\nb", "x" * 101):
        with pytest.raises(Invalid):
            people.create_person(name, team="home", role="viewer", actor="owner")
    with pytest.raises(Invalid, match="no role 'root'"):
        people.create_person("ada", team="home", role="root", actor="owner")
    with pytest.raises(NotFound, match="no team 'red'"):
        people.create_person("ada", team="red", role="viewer", actor="owner")
    with pytest.raises(Conflict):
        people.create_person("owner", team="home", role="viewer", actor="owner")
    with pytest.raises(NotFound, match="no person 'ada'"):
        people.join("ada", team="home", role="viewer", actor="owner")
    with pytest.raises(NotFound):
        people.leave("ada", team="home", actor="owner")
    assert [p.name for p in people.persons()] == ["owner"]


def test_the_last_admin_stays(people: People):
    with pytest.raises(Conflict, match="last admin"):
        people.leave("owner", team="home", actor="owner")
    with pytest.raises(Conflict, match="last admin"):
        people.join("owner", team="home", role="viewer", actor="owner")

    assert people.caller().role == "admin"


def test_of_two_admins_who_leave_at_once_one_stays(people: People):
    people.create_person("ada", team="home", role="admin", actor="owner")
    together = threading.Barrier(2)

    def leave(person: str) -> bool:
        together.wait()
        try:
            people.leave(person, team="home", actor=person)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(leave, ["owner", "ada"])) == [False, True]


# Keys


def test_a_key_opens_what_its_persons_role_may(people: People):
    caller = people.authenticate(f"Bearer {issue(people, 'developer')}")

    assert (caller.person, caller.team, caller.role) == ("person-1", "team-1", "developer")
    assert caller.scopes == ROLES["developer"]
    assert caller.actor == f"person-1/{caller.key}"


def test_nothing_that_opens_anything_is_kept(people: People, database: Database):
    text = issue(people)

    with database.read() as tx:
        tables = "api_key", "audit_event", "person", "membership"
        kept = " ".join(str(row) for table in tables for row in tx.all(f"SELECT * FROM {table}"))

    assert text[3:11] in kept
    assert text not in kept and text[12:44] not in kept


def test_scopes_narrow_a_key_and_never_widen_it(people: People):
    caller = people.authenticate(issue(people, "developer", scopes=iter(["jobs:read"])))

    assert caller.scopes == {"jobs:read"}
    with pytest.raises(Invalid, match="developer does not include fund:write"):
        issue(people, "developer", scopes=["fund:write"])
    with pytest.raises(Invalid, match="no scope 'root'"):
        issue(people, "developer", scopes=["root"])


def test_a_key_never_reaches_further_than_its_person_does_now(people: People):
    """A developer becomes a viewer, then leaves, then comes back."""
    text = issue(people, "developer", scopes=["jobs:read", "jobs:write"])

    people.join("person-1", team="team-1", role="viewer", actor="owner")
    assert people.authenticate(text).scopes == {"jobs:read"}
    people.leave("person-1", team="team-1", actor="owner")
    with pytest.raises(KeyEnded, match="no role in team team-1"):
        people.authenticate(text)
    assert [key.role for key in people.api_keys(person="person-1")] == [""]
    people.join("person-1", team="team-1", role="admin", actor="owner")
    assert people.authenticate(text).scopes == {"jobs:read", "jobs:write"}


def test_a_key_ends_when_it_expires(people: People, clock: FakeClock):
    text = issue(people, expires_at=clock.now() + DAY_MS)

    clock.advance(DAY_MS - 1)
    assert people.authenticate(text)
    clock.advance(1)
    with pytest.raises(KeyEnded, match="expired at 2026-01-02"):
        people.authenticate(text)
    with pytest.raises(Invalid, match="in the past"):
        issue(people, expires_at=clock.now())


def test_a_key_is_known_for_a_second_and_not_once_it_has_ended(people: People, clock: FakeClock):
    text = issue(people, "developer", expires_at=clock.now() + 10_000)
    assert people.known.recall(text) is None, "nobody has come with it"
    caller = people.authenticate(text)

    assert people.known.recall(f"Bearer {text}") == caller
    assert people.known.recall(text[:-1] + "x") is people.known.recall("") is None
    clock.advance(1000)
    assert people.known.recall(text) is None and people.known.recall(text, within_ms=None) == caller
    clock.advance(9000)
    assert people.known.recall(text, within_ms=None) is None, "it has expired"

    for change in (
        lambda: people.revoke(caller.key, actor="owner"),
        lambda: people.join(caller.person, team=caller.team, role="viewer", actor="owner"),
        lambda: people.leave(caller.person, team=caller.team, actor="owner"),
    ):
        other = issue(people, "developer")
        people.authenticate(other)
        change()
        assert people.known.recall(other) is None


def test_a_key_ends_when_it_is_revoked(people: People, clock: FakeClock):
    text = issue(people)
    prefix = read_key(text).prefix

    ended = people.revoke(f"ck_{prefix}", actor="owner")
    clock.advance(DAY_MS)

    assert ended.revoked_at == clock.now() - DAY_MS
    with pytest.raises(KeyEnded, match="revoked at 2026-01-01"):
        people.authenticate(text)
    assert people.revoke(prefix, actor="owner") == ended
    assert len(people.events(action="key.revoke")) == 1


def test_a_key_of_another_team_does_not_exist(people: People):
    prefix = read_key(issue(people)).prefix

    for wrong in ({"prefix": prefix, "teams": ["home"]}, {"prefix": "abcdefgh"}, {"prefix": ""}):
        with pytest.raises(NotFound):
            people.revoke(**wrong, actor="owner")
    assert people.api_keys(teams=["home"]) == []
    assert [key.prefix for key in people.api_keys(teams=["team-1"])] == [prefix]


def test_a_key_that_nobody_issued_is_unknown(people: People, database: Database):
    issued = issue(people)
    forged = new_key().text
    with pytest.raises(KeyUnknown, match="Nobody issued"):
        people.authenticate(forged)

    # The prefix of a real key with another secret.
    database.write(lambda tx: tx.run("UPDATE api_key SET prefix = :p", p=read_key(forged).prefix))
    with pytest.raises(KeyUnknown, match="Nobody issued"):
        people.authenticate(forged)
    with pytest.raises(KeyUnknown, match="Nobody issued"):
        people.authenticate(issued)


def test_a_key_needs_a_role_a_name_and_a_person(people: People):
    for name in ("", " ", "x" * 201, "a\nb"):
        with pytest.raises(Invalid):
            people.create_key("owner", team="home", name=name, actor="owner")
    with pytest.raises(NotFound, match="no role in team"):
        people.create_key("owner", team="red", name="x", actor="owner")
    with pytest.raises(NotFound, match="no role in team"):
        people.create_key("eve", team="home", name="x", actor="owner")


def test_a_thousand_requests_write_a_keys_last_use_once_a_minute(
    people: People, clock: FakeClock, database: Database, monkeypatch: pytest.MonkeyPatch
):
    text = issue(people)
    writes = []
    write = database.write
    monkeypatch.setattr(database, "write", lambda work: writes.append(1) or write(work))
    start = clock.now()

    for _ in range(1000):
        people.authenticate(text)
        clock.advance(130)

    assert len(writes) == 2
    (key,) = people.api_keys()
    assert key.used_at == start + 999 * 130


def test_a_last_use_is_never_set_back(people: People, clock: FakeClock, database: Database):
    """Two servers note uses of one key, the later use first."""
    text, other = issue(people), People(database, clock)
    other.authenticate(text, now=clock.now() + 5000)
    people.authenticate(text)

    other.note_uses()
    people.note_uses()

    assert people.api_keys()[0].used_at == clock.now() + 5000


# The log


def test_what_is_done_to_people_is_in_the_log(people: People):
    text = issue(people)
    people.revoke(read_key(text).prefix, actor="ada/abcdefgh")

    events = people.events()

    assert [(e.actor, e.action, e.team) for e in events] == [
        ("ada/abcdefgh", "key.revoke", "team-1"),
        ("owner", "key.create", "team-1"),
        ("owner", "person.join", "team-1"),
        ("owner", "team.create", "team-1"),
    ]
    assert events[2].detail == {"role": "developer"}


def test_the_log_is_filtered_and_paged(people: People, clock: FakeClock):
    for i in range(10):
        people.record(
            "ada" if i % 2 else "bob", "job.cancel" if i < 5 else "job.resume", f"job-{i}", "red" if i < 3 else ""
        )
        clock.advance(1000)
    start = clock.now() - 10_000

    def subjects(**filters) -> str:
        return "".join(e.subject[-1] for e in people.events(**filters))

    assert subjects() == "9876543210"
    assert subjects(actor="ada") == "97531"
    assert subjects(action="job") == "9876543210"
    assert subjects(action="job.cancel", actor="bob") == "420"
    assert subjects(action="jo") == ""
    assert subjects(team="red") == "210"
    assert subjects(subject="job-4") == "4"
    assert subjects(since=start + 3000, until=start + 6000) == "543"
    first = people.events(limit=4)
    assert subjects(limit=4, before=first[-1].seq) == "5432"


def test_the_log_stands_or_falls_with_what_it_tells_of(people: People, database: Database):
    def work(tx: Tx) -> None:
        people.record("ada", "job.cancel", "job-1", "home", {"why": "late"}, tx=tx)
        people.create_team("red", fund="lab", actor="ada", tx=tx)
        raise ValueError

    with pytest.raises(ValueError):
        database.write(work)

    assert people.events() == []
    assert len(people.teams()) == 1


def test_the_database_refuses_to_rewrite_the_log(people: People, database: Database):
    people.record("ada", "job.cancel", "job-1", "home")

    for statement in ("UPDATE audit_event SET actor = 'eve'", "DELETE FROM audit_event"):
        with pytest.raises(Exception, match="append-only"):
            database.write(lambda tx, statement=statement: tx.run(statement))
