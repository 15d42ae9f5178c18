"""Money of a platform, as a program handles it. Amounts are decimal text: "12.50"."""

from __future__ import annotations

from collections.abc import Sequence

from cerulea.client.answers import read
from cerulea.client.money_answers import (
    Audit,
    Cap,
    Draw,
    Forecast,
    Fund,
    Grant,
    Moved,
    Price,
    RequestUsage,
    Statement,
    Used,
)
from cerulea.client.wire import Requests, path_part

AUDIT_S = 600.0  # an audit reads every transfer


class FundCalls:
    """`client.funds`."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def list(self) -> Sequence[Fund]:
        """Funds, by name."""
        return [read(Fund, one) for one in self._line.get("/api/funds")["items"]]

    def create(self, name: str, *, approval: bool = False, uncapped: bool = False, key: str | None = None) -> Fund:
        """Make a fund, empty. Raises Conflict."""
        body = {"name": name, "approval": approval, "uncapped": uncapped}
        return read(Fund, self._line.write("POST", "/api/funds", body, key=key))

    def grant(
        self, fund: str, amount: str, *, until: str | None = None, sponsor: str = "sponsor", key: str | None = None
    ) -> Moved:
        """Bring money into a fund; what nobody drew goes back at `until` (2027-03-31)."""
        body = {"amount": amount, "until": until, "sponsor": sponsor}
        return read(Moved, self._line.write("POST", f"/api/funds/{path_part(fund)}/grants", body, key=key))

    def grants(self, fund: str) -> Sequence[Grant]:
        """What came into a fund, the newest first."""
        return [read(Grant, one) for one in self._line.get(f"/api/funds/{path_part(fund)}/grants")["items"]]

    def draw(self, fund: str, team: str, amount: str, *, key: str | None = None) -> Draw:
        """Move money to a team, or ask for it where somebody has to approve. Raises FundTooLow."""
        body = {"team": team, "amount": amount}
        return read(Draw, self._line.write("POST", f"/api/funds/{path_part(fund)}/draws", body, key=key))

    def give_back(self, fund: str, team: str, amount: str, *, key: str | None = None) -> Moved:
        """Move money of a team back to the fund. Raises FundTooLow."""
        body = {"team": team, "amount": amount}
        return read(Moved, self._line.write("POST", f"/api/funds/{path_part(fund)}/returns", body, key=key))

    def requests(self, fund: str | None = None) -> Sequence[Draw]:
        """Draws that were asked for, those that wait first."""
        return [read(Draw, one) for one in self._line.get("/api/draws", fund=fund)["items"]]

    def approve(self, request: str, *, key: str | None = None) -> Draw:
        """Say yes to a draw. Raises FundTooLow, Conflict."""
        return read(Draw, self._line.write("POST", f"/api/draws/{path_part(request)}/approve", key=key))

    def deny(self, request: str, *, key: str | None = None) -> Draw:
        """Say no to a draw. Raises Conflict."""
        return read(Draw, self._line.write("POST", f"/api/draws/{path_part(request)}/deny", key=key))

    def statement(self, fund: str) -> Statement:
        """What became of a fund's money."""
        return read(Statement, self._line.get(f"/api/funds/{path_part(fund)}/statement"))

    def forecast(self, fund: str) -> Forecast:
        """When a fund's money ends."""
        return read(Forecast, self._line.get(f"/api/funds/{path_part(fund)}/forecast"))

    def audit(self) -> Audit:
        """Add the books up."""
        return read(Audit, self._line.get("/api/books/audit", timeout_s=AUDIT_S))

    def caps(self) -> Sequence[Cap]:
        """Limits that hold."""
        return [read(Cap, one) for one in self._line.get("/api/caps")["items"]]

    def set_cap(self, scope: str, subject: str, period: str, amount: str | None, *, key: str | None = None) -> Cap:
        """Limit what a team, key or job may hold and spend in a month, a day or in total; None lifts it."""
        body = {"scope": scope, "subject": subject, "period": period, "amount": amount}
        return read(Cap, self._line.write("PUT", "/api/caps", body, key=key))

    def prices(self) -> Sequence[Price]:
        """What everything costs, with every earlier price."""
        return [read(Price, one) for one in self._line.get("/api/prices")["items"]]


class UsageCalls:
    """`client.usage`: requests to models."""

    def __init__(self, line: Requests) -> None:
        self._line = line

    def report(
        self,
        *,
        by: str = "day",
        since: str | None = None,
        until: str | None = None,
        team: str | None = None,
        key: str | None = None,
        model: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Used]:
        """Sums by day, team, key or model; since and until are days (2026-11-23), the second included."""
        found = self._line.get(
            "/api/usage", by=by, since=since, until=until, team=team, key=key, model=model, limit=limit
        )
        return [read(Used, one) for one in found["items"]]

    def request(self, request_id: str) -> RequestUsage:
        """What one request used and paid. Raises NotFound."""
        return read(RequestUsage, self._line.get(f"/api/usage/requests/{path_part(request_id)}"))
