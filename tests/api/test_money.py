"""Money over HTTP: funds, grants, draws with and without somebody's yes, caps, statements."""

from __future__ import annotations

import pytest

from cerulea.core.clock import iso
from cerulea.flows.platform import Platform
from tests.serving import Asker, asker_for


@pytest.fixture
def lab(ask_both: Asker) -> Asker:
    """A fund of 20.00 on which team vision draws, and whoever may do everything."""
    ask_both.post("/api/funds", {"name": "lab"}, status=201)
    ask_both.post("/api/funds/lab/grants", {"amount": "20"}, status=201)
    ask_both.post("/api/teams", {"name": "vision", "fund": "lab"}, status=201)
    return ask_both


def test_a_statement_adds_up(lab: Asker):
    lab.post("/api/funds/lab/draws", {"team": "vision", "amount": "12.5"}, status=201)
    lab.post("/api/funds/lab/returns", {"team": "vision", "amount": "2"}, status=201)

    found = lab.get("/api/funds/lab/statement")

    assert (found["granted"], found["drawn"], found["available"]) == ("20.00", "10.50", "9.50")
    assert found["teams"] == [
        {
            "team": "vision",
            "drawn": "10.50",
            "held": "0.00",
            "settled": "0.00",
            "available": "10.50",
            "inference": "0.00",
        }
    ]
    assert lab.get("/api/books/audit") == {"balanced": True, "transfers": 3, "sealed": 0, "problems": []}


def test_a_draw_beyond_the_fund_says_what_is_left_who_has_the_rest_and_what_to_type(both: Platform, lab: Asker):
    lab.post("/api/funds/lab/draws", {"team": "vision", "amount": "15"}, status=201)
    both.ledger.hold("lab", "vision", 4 * 10**9, key="h", job="job-1")

    problem = lab.post("/api/funds/lab/draws", {"team": "vision", "amount": "12.50"}, status=402)

    assert problem["code"] == "E-FUND-002"
    assert "5.00 left" in problem["detail"] and "12.50 was asked for" in problem["detail"]
    assert "team vision has 11.00 free and 4.00 held" in problem["why"]
    assert "cerulea fund grant lab 7.50" in problem["fix"]


@pytest.mark.parametrize(
    "amount", ["-5", "0", "NaN", "1e3", "1,000", "", " ", "9" * 30, "1.0000000001", "٣", "inf", "$5"]
)
@pytest.mark.parametrize("path", ["grants", "draws", "returns"])
def test_what_is_no_amount_is_refused_with_its_code(amount: str, path: str, ask: Asker):
    body = {"amount": amount, **({"team": "home"} if path != "grants" else {})}

    assert ask.post(f"/api/funds/home/{path}", body, status=400)["code"] == "E-MONEY-001"


def test_an_amount_as_a_number_is_refused(ask: Asker):
    """A float never touches money, not even on the wire."""
    assert ask.post("/api/funds/home/grants", {"amount": 5.5}, status=422)["code"] == "E-USE-001"


def test_who_cannot_approve_asks_and_who_can_decides_once(platform: Platform, ask: Asker):
    ask.post("/api/funds", {"name": "grant-7", "approval": True}, status=201)
    ask.post("/api/funds/grant-7/grants", {"amount": "20"}, status=201)
    developer = asker_for(platform, "developer", "vision")
    developer.post("/api/funds/grant-7/draws", {"team": "vision", "amount": "3"}, status=404)
    platform.ledger.open_purse("grant-7", "vision")

    asked = [developer.post("/api/funds/grant-7/draws", {"team": "vision", "amount": "3"}, status=201) for _ in "12"]

    assert [one["status"] for one in asked] == ["asked", "asked"]
    assert ask.get("/api/funds/grant-7/statement")["drawn"] == "0.00"
    developer.post(f"/api/draws/{asked[0]['request']}/approve", status=403)
    assert ask.post(f"/api/draws/{asked[0]['request']}/approve")["status"] == "drawn"
    assert ask.post(f"/api/draws/{asked[0]['request']}/approve")["status"] == "drawn"
    assert ask.post(f"/api/draws/{asked[1]['request']}/deny")["status"] == "denied"
    assert ask.post(f"/api/draws/{asked[1]['request']}/approve", status=409)["code"] == "E-CONFLICT-001"
    assert ask.get("/api/funds/grant-7/statement")["drawn"] == "3.00"
    assert {one["status"] for one in developer.get("/api/draws?fund=grant-7")["items"]} == {"drawn", "denied"}
    assert asker_for(platform, "developer", "other").get("/api/draws")["items"] == []
    actions = [one["action"] for one in ask.get("/api/audit?action=fund&team=vision")["items"]]
    assert actions == ["fund.deny", "fund.approve", "fund.approve", "fund.ask", "fund.ask"]


def test_a_developer_draws_at_once_where_nobody_has_to_approve(platform: Platform, ask: Asker):
    developer = asker_for(platform, "developer", "vision")
    ask.post("/api/funds/vision/grants", {"amount": "20"}, status=201)

    assert developer.post("/api/funds/vision/draws", {"team": "vision", "amount": "3"}, status=201)["status"] == "drawn"
    assert asker_for(platform, "viewer", "vision").post(
        "/api/funds/vision/draws", {"team": "vision", "amount": "3"}, status=403
    )


def test_a_grant_with_an_end_goes_back_then(both: Platform, lab: Asker):
    lab.post("/api/funds/lab/grants", {"amount": "7", "until": "2031-01-31", "sponsor": "dean"}, status=201)

    newest = lab.get("/api/funds/lab/grants")["items"][0]

    assert (newest["amount"], newest["until"], newest["sponsor"]) == ("7.00", "2031-02-01T00:00:00.000+00:00", "dean")
    for until in ("2020-01-01", "yesterday", "2031-13-01"):
        assert lab.post("/api/funds/lab/grants", {"amount": "7", "until": until}, status=400)["code"] == "E-MONEY-001"


def test_caps_are_set_shown_and_lifted(lab: Asker):
    cap = {"scope": "team", "subject": "vision", "period": "month", "amount": "3"}
    assert lab("PUT", "/api/caps", cap)["amount"] == "3.00"
    assert lab.get("/api/caps")["items"] == [{**cap, "amount": "3.00"}]
    assert "vision" in lab("PUT", "/api/caps", {**cap, "subject": "visoin"}, status=404)["why"]
    assert lab("PUT", "/api/caps", {**cap, "amount": "-1"}, status=400)["code"] == "E-MONEY-001"
    assert lab("PUT", "/api/caps", {**cap, "amount": None})["amount"] is None
    assert lab.get("/api/caps")["items"] == []


def test_a_fund_is_made_once(lab: Asker):
    assert lab.post("/api/funds", {"name": "lab"}, status=409)["code"] == "E-CONFLICT-001"
    lab.post("/api/funds", {"name": "a/b"}, status=422)


def test_the_forecast_names_no_day_where_nothing_was_spent(lab: Asker):
    found = lab.get("/api/funds/lab/forecast")

    assert (found["left"], found["ends_at"]) == ("20.00", None)


def test_prices_have_their_source(platform: Platform, ask: Asker):
    prices = ask.get("/api/prices")["items"]

    assert {price["sku"] for price in prices} >= {"device_ms.cpu", "device_ms.cuda", "trained_tokens"}
    assert all(price["source"] for price in prices)
    assert prices[0]["valid_from"] <= iso(platform.clock.now())
