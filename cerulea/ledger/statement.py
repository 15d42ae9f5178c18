"""What became of a fund's money: a statement that adds up, and what leaves the fund per day.

    granted = lapsed + drawn + available         drawn = held + settled + what the teams have available

In:      a transaction; a fund.
Out:     Statement, with a row for each team; lines for CSV.
Kept:    both equations above hold for a limited fund at every moment; `drawn` is net of what teams gave back.
"""

from __future__ import annotations

from dataclasses import dataclass

from cerulea.core.money import Nanos, show
from cerulea.ledger import accounts
from cerulea.store.database import Tx

HEADER = ("fund", "team", "granted", "lapsed", "drawn", "held", "settled", "available", "inference")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamRow:
    """What one team did with its part."""

    team: str
    drawn: Nanos
    held: Nanos
    settled: Nanos
    available: Nanos  # drawn - held - settled; negative only where the fund is uncapped
    inference: Nanos  # of what is settled, for requests to models


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A fund at one moment."""

    fund: str
    uncapped: bool  # metered alone: teams spend without drawing
    granted: Nanos
    lapsed: Nanos
    drawn: Nanos
    held: Nanos
    settled: Nanos
    available: Nanos  # what can still be drawn
    inference: Nanos  # of what is settled, for requests to models; the rest is the machines' time
    teams: list[TeamRow]

    def lines(self) -> list[tuple[str, ...]]:
        """The statement as rows of text for CSV: a header, the fund, each team."""
        whole = (self.granted, self.lapsed, self.drawn, self.held, self.settled, self.available, self.inference)
        found = [HEADER, (self.fund, "", *map(show, whole))]
        for row in self.teams:
            parts = (row.drawn, row.held, row.settled, row.available, row.inference)
            found.append((self.fund, row.team, "", "", *map(show, parts)))
        return found


def state(tx: Tx, fund: str) -> Statement:
    """The statement of a fund.

    Raises:
        NotFound: no such fund.
    """
    account = accounts.fund_of(tx, fund)
    grants = tx.all("SELECT amount, lapsed FROM grants WHERE fund = :fund", fund=fund)
    teams = []
    for purse in accounts.every(tx, "team", fund):
        returned = tx.value(
            "SELECT SUM(amount) FROM transfer WHERE credit = :fund AND debit = :team AND kind = 'single'",
            fund=account.id,
            team=purse.id,
        )
        back = int(returned or 0)
        inference = tx.value(
            "SELECT SUM(amount) FROM transfer WHERE debit = :team AND kind = 'post' "
            "AND credit = (SELECT id FROM account WHERE code = 'platform:inference')",
            team=purse.id,
        )
        drawn, settled = purse.cr_posted - back, purse.dr_posted - back
        teams.append(
            TeamRow(
                team=str(purse.team),
                drawn=Nanos(drawn),
                held=Nanos(purse.dr_pending),
                settled=Nanos(settled),
                available=Nanos(drawn - purse.dr_pending - settled),
                inference=Nanos(int(inference or 0)),
            )
        )
    return Statement(
        fund=fund,
        uncapped=not account.limited,
        granted=Nanos(sum(row.amount for row in grants)),
        lapsed=Nanos(sum(row.lapsed for row in grants)),
        drawn=Nanos(sum(row.drawn for row in teams)),
        held=Nanos(sum(row.held for row in teams)),
        settled=Nanos(sum(row.settled for row in teams)),
        available=Nanos(account.cr_posted - account.dr_posted),
        inference=Nanos(sum(row.inference for row in teams)),
        teams=teams,
    )
