"""The institution: money, jobs, models, people.

Times are milliseconds since 1970 UTC; money is nano-units; JSON is text; 0 and 1 are no and yes, so that one
statement serves both engines.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE account (
  id {serial},
  code TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('sponsor', 'fund', 'team', 'platform', 'cap')),
  unit TEXT NOT NULL DEFAULT 'money' CHECK (unit IN ('money', 'cap')),
  fund TEXT,
  team TEXT,
  limited BIGINT NOT NULL CHECK (limited IN (0, 1)),
  counted BIGINT NOT NULL CHECK (counted IN (0, 1)),
  approval BIGINT NOT NULL DEFAULT 0 CHECK (approval IN (0, 1)),
  closed BIGINT NOT NULL DEFAULT 0 CHECK (closed IN (0, 1)),
  dr_pending BIGINT NOT NULL DEFAULT 0,
  dr_posted BIGINT NOT NULL DEFAULT 0,
  cr_posted BIGINT NOT NULL DEFAULT 0,
  actor TEXT NOT NULL DEFAULT '',
  created_at BIGINT NOT NULL,
  CONSTRAINT account_no_negative CHECK (dr_pending >= 0 AND dr_posted >= 0 AND cr_posted >= 0),
  CONSTRAINT account_no_overflow CHECK (
    cr_posted <= 4611686018427387904 AND dr_posted + dr_pending <= 4611686018427387904
  ),
  CONSTRAINT account_no_overspend CHECK (limited = 0 OR dr_posted + dr_pending <= cr_posted)
);
CREATE INDEX account_of_fund ON account (fund) WHERE fund IS NOT NULL;
CREATE TABLE transfer (
  seq {serial},
  key TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('single', 'pending', 'extend', 'post', 'void', 'expire')),
  pending_seq BIGINT REFERENCES transfer (seq),
  group_key TEXT,
  debit BIGINT NOT NULL REFERENCES account (id),
  credit BIGINT NOT NULL REFERENCES account (id),
  amount BIGINT NOT NULL,
  expires_at BIGINT,
  asked TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  job TEXT,
  request TEXT,
  actor TEXT NOT NULL DEFAULT '',
  detail TEXT NOT NULL DEFAULT '',
  at BIGINT NOT NULL,
  CONSTRAINT transfer_two_sides CHECK (debit <> credit),
  CONSTRAINT transfer_moves CHECK (amount > 0 OR (amount = 0 AND kind IN ('post', 'void', 'expire'))),
  CONSTRAINT transfer_follows CHECK ((pending_seq IS NULL) = (kind IN ('single', 'pending')))
);
CREATE UNIQUE INDEX transfer_resolves_once ON transfer (pending_seq) WHERE kind IN ('post', 'void', 'expire');
CREATE INDEX transfer_of_group ON transfer (group_key) WHERE group_key IS NOT NULL;
CREATE INDEX transfer_settled ON transfer (debit, at, amount) WHERE kind = 'post';
CREATE INDEX transfer_by_credit ON transfer (credit, debit) WHERE kind = 'single';
CREATE INDEX transfer_by_job ON transfer (job) WHERE job IS NOT NULL;
CREATE TABLE open_hold (
  key TEXT PRIMARY KEY,
  seq BIGINT NOT NULL,
  debit BIGINT NOT NULL,
  credit BIGINT NOT NULL,
  amount BIGINT NOT NULL CHECK (amount > 0),
  legs BIGINT NOT NULL,
  expires_at BIGINT,
  job TEXT,
  request TEXT,
  at BIGINT NOT NULL
);
CREATE INDEX open_hold_of_account ON open_hold (debit, amount DESC, key);
CREATE INDEX open_hold_expiring ON open_hold (expires_at) WHERE expires_at IS NOT NULL AND job IS NULL;
CREATE TABLE seal (
  seq {serial},
  from_seq BIGINT NOT NULL UNIQUE,
  to_seq BIGINT NOT NULL UNIQUE,
  rows BIGINT NOT NULL,
  leaves TEXT NOT NULL,
  root TEXT NOT NULL,
  previous TEXT NOT NULL,
  at BIGINT NOT NULL
);
CREATE TABLE grants (
  key TEXT PRIMARY KEY,
  fund TEXT NOT NULL,
  sponsor TEXT NOT NULL,
  amount BIGINT NOT NULL CHECK (amount > 0),
  until_at BIGINT,
  lapsed BIGINT NOT NULL DEFAULT 0 CHECK (lapsed >= 0 AND lapsed <= amount),
  lapsed_at BIGINT,
  at BIGINT NOT NULL
);
CREATE INDEX grants_of_fund ON grants (fund);
CREATE TABLE draw_request (
  id TEXT PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  fund TEXT NOT NULL,
  team TEXT NOT NULL,
  amount BIGINT NOT NULL CHECK (amount > 0),
  status TEXT NOT NULL CHECK (status IN ('asked', 'drawn', 'denied')),
  asked_by TEXT NOT NULL,
  decided_by TEXT,
  at BIGINT NOT NULL,
  decided_at BIGINT
);
CREATE TABLE cap (
  id {serial},
  scope TEXT NOT NULL CHECK (scope IN ('team', 'key', 'job')),
  subject TEXT NOT NULL,
  period TEXT NOT NULL CHECK (period IN ('month', 'day', 'total')),
  amount BIGINT NOT NULL CHECK (amount >= 0),
  actor TEXT NOT NULL DEFAULT '',
  created_at BIGINT NOT NULL,
  UNIQUE (scope, subject, period)
);
CREATE TABLE price (
  id {serial},
  sku TEXT NOT NULL,
  nanos BIGINT NOT NULL CHECK (nanos >= 0),
  per BIGINT NOT NULL CHECK (per > 0),
  valid_from BIGINT NOT NULL,
  own BIGINT NOT NULL CHECK (own IN (0, 1)),
  source TEXT NOT NULL,
  UNIQUE (sku, valid_from, own)
);
CREATE TABLE team (
  name TEXT PRIMARY KEY,
  fund TEXT NOT NULL,
  weight BIGINT NOT NULL DEFAULT 1 CHECK (weight > 0),
  slots BIGINT NOT NULL DEFAULT 0,
  borrows BIGINT NOT NULL DEFAULT 1,
  created_at BIGINT NOT NULL
);
CREATE TABLE person (
  name TEXT PRIMARY KEY,
  created_at BIGINT NOT NULL
);
CREATE TABLE membership (
  person TEXT NOT NULL REFERENCES person (name),
  team TEXT NOT NULL REFERENCES team (name),
  role TEXT NOT NULL,
  PRIMARY KEY (person, team)
);
CREATE TABLE api_key (
  prefix TEXT PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  person TEXT NOT NULL REFERENCES person (name),
  team TEXT NOT NULL REFERENCES team (name),
  scopes TEXT NOT NULL,
  expires_at BIGINT,
  revoked_at BIGINT,
  used_at BIGINT,
  created_at BIGINT NOT NULL
);
CREATE TABLE audit_event (
  seq {serial},
  at BIGINT NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  team TEXT NOT NULL,
  detail TEXT NOT NULL
);
CREATE INDEX audit_event_of_subject ON audit_event (subject, seq);
CREATE INDEX audit_event_of_actor ON audit_event (actor, seq);
CREATE TABLE idempotency (
  scope TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  status BIGINT NOT NULL,
  response TEXT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (scope, key)
);
CREATE TABLE job (
  seq {serial},
  id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  recipe TEXT NOT NULL,
  recipe_digest TEXT NOT NULL,
  team TEXT NOT NULL REFERENCES team (name),
  fund TEXT NOT NULL,
  person TEXT NOT NULL,
  api_key TEXT,
  priority BIGINT NOT NULL DEFAULT 0,
  slots BIGINT NOT NULL DEFAULT 1 CHECK (slots > 0),
  device TEXT NOT NULL DEFAULT 'cpu',
  on_budget TEXT NOT NULL DEFAULT 'resume' CHECK (on_budget IN ('resume', 'pause')),
  max_retries BIGINT NOT NULL DEFAULT 3,
  max_cost BIGINT,
  rerun_of TEXT,
  pinned BIGINT NOT NULL DEFAULT 0,
  run TEXT,
  status TEXT NOT NULL,
  desired TEXT NOT NULL DEFAULT 'run',
  reason TEXT NOT NULL DEFAULT '',
  reason_detail TEXT NOT NULL DEFAULT '',
  version BIGINT NOT NULL DEFAULT 0,
  attempt BIGINT NOT NULL DEFAULT 0,
  retries BIGINT NOT NULL DEFAULT 0,
  losses BIGINT NOT NULL DEFAULT 0,
  preemptions BIGINT NOT NULL DEFAULT 0,
  not_before BIGINT NOT NULL DEFAULT 0,
  token TEXT,
  worker TEXT,
  lease_expires_at BIGINT,
  hold_key TEXT,
  held BIGINT NOT NULL DEFAULT 0,
  tranche BIGINT NOT NULL DEFAULT 0,
  usage TEXT NOT NULL DEFAULT '{{}}',
  charged BIGINT NOT NULL DEFAULT 0,
  step BIGINT NOT NULL DEFAULT 0,
  fraction DOUBLE PRECISION NOT NULL DEFAULT 0,
  checkpoint_step BIGINT,
  checkpoint_digest TEXT,
  checkpoint_tokens BIGINT,
  cost_at_start BIGINT NOT NULL DEFAULT 0,
  result TEXT NOT NULL DEFAULT '{{}}',
  submitted_at BIGINT NOT NULL,
  queued_at BIGINT NOT NULL,
  started_at BIGINT,
  finished_at BIGINT
);
CREATE INDEX job_waiting ON job (team, priority DESC, seq) WHERE status = 'QUEUED';
CREATE INDEX job_held_by_worker ON job (worker) WHERE status IN ('STARTING', 'RUNNING', 'STOPPING');
CREATE INDEX job_open ON job (status) WHERE status IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING', 'PAUSED');
CREATE INDEX job_by_team ON job (team, seq DESC);
CREATE INDEX job_by_status ON job (status, seq DESC);
CREATE TABLE job_attempt (
  job TEXT NOT NULL REFERENCES job (id),
  attempt BIGINT NOT NULL,
  worker TEXT NOT NULL,
  slots TEXT NOT NULL,
  outcome TEXT NOT NULL DEFAULT '',
  detail TEXT NOT NULL DEFAULT '',
  resumed_step BIGINT,
  charged BIGINT NOT NULL DEFAULT 0,
  began_at BIGINT NOT NULL,
  ended_at BIGINT,
  PRIMARY KEY (job, attempt)
);
CREATE TABLE job_event (
  seq {serial},
  job TEXT NOT NULL REFERENCES job (id),
  attempt BIGINT NOT NULL,
  before TEXT NOT NULL,
  after TEXT NOT NULL,
  reason TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT '',
  actor TEXT NOT NULL,
  at BIGINT NOT NULL
);
CREATE INDEX job_event_of_job ON job_event (job, seq);
CREATE TABLE placement (
  job TEXT NOT NULL REFERENCES job (id),
  worker TEXT NOT NULL,
  slots BIGINT NOT NULL,
  PRIMARY KEY (job, worker)
);
CREATE TABLE worker (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  slots BIGINT NOT NULL,
  device TEXT NOT NULL,
  kinds TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('alive', 'draining', 'gone')),
  seen_at BIGINT NOT NULL,
  began_at BIGINT NOT NULL
);
CREATE TABLE share (
  team TEXT PRIMARY KEY,
  used DOUBLE PRECISION NOT NULL,
  at BIGINT NOT NULL
);
CREATE TABLE model (
  name TEXT PRIMARY KEY,
  team TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);
CREATE TABLE model_version (
  model TEXT NOT NULL REFERENCES model (name),
  version BIGINT NOT NULL,
  digest TEXT NOT NULL,
  manifest TEXT NOT NULL,
  card TEXT NOT NULL,
  job TEXT,
  run TEXT,
  parent TEXT,
  corpus TEXT NOT NULL DEFAULT '',
  actor TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  retired_at BIGINT,
  retired_by TEXT,
  PRIMARY KEY (model, version)
);
CREATE INDEX model_version_by_parent ON model_version (parent) WHERE parent IS NOT NULL;
CREATE TABLE alias (
  model TEXT NOT NULL REFERENCES model (name),
  alias TEXT NOT NULL,
  version BIGINT NOT NULL,
  PRIMARY KEY (model, alias),
  FOREIGN KEY (model, version) REFERENCES model_version (model, version)
);
CREATE TABLE alias_event (
  seq {serial},
  model TEXT NOT NULL,
  alias TEXT NOT NULL,
  before BIGINT,
  after BIGINT,
  actor TEXT NOT NULL,
  at BIGINT NOT NULL
);
CREATE INDEX alias_event_of_alias ON alias_event (model, alias, seq);
CREATE TABLE lease (
  name TEXT PRIMARY KEY,
  holder TEXT NOT NULL,
  until_at BIGINT NOT NULL
);
"""

PLATFORM = (
    ("platform:compute", "money"),
    ("platform:inference", "money"),
    ("platform:storage", "money"),
    ("platform:absorbed", "money"),
    ("cap", "cap"),
)
APPEND_ONLY = ("transfer", "seal", "audit_event", "job_event", "alias_event")
SERIAL = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
}


def upgrade() -> None:
    """Create everything."""
    dialect = op.get_bind().dialect.name
    for statement in TABLES.format(serial=SERIAL[dialect]).split(";\n"):
        if statement.strip():
            op.get_bind().exec_driver_sql(statement)
    for table in APPEND_ONLY:
        _forbid_changes(table, dialect)
    for code, unit in PLATFORM:
        op.get_bind().exec_driver_sql(
            f"INSERT INTO account (code, kind, unit, limited, counted, created_at) "
            f"VALUES ('{code}', '{'cap' if unit == 'cap' else 'platform'}', '{unit}', 0, 0, 0)"
        )


def _forbid_changes(table: str, dialect: str) -> None:
    """Make the database itself refuse to change or remove a row: corrections are new rows."""
    run = op.get_bind().exec_driver_sql
    if dialect == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            run(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    run(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$"
    )
    run(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
