"""Metering of requests to models: what each one used and paid, and limits on keys per minute.

`request_usage` has one row for each request that ended, written together with its charge and never changed.
`key_minute` counts a limited key's minute for all gateways together. `transfer_paid` adds up what a purse paid to whom.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
CREATE TABLE request_usage (
  request_id TEXT PRIMARY KEY,
  begun_at BIGINT NOT NULL,
  ended_at BIGINT NOT NULL,
  team TEXT NOT NULL,
  fund TEXT NOT NULL,
  person TEXT NOT NULL,
  api_key TEXT NOT NULL DEFAULT '',
  model TEXT NOT NULL,
  version BIGINT,
  endpoint TEXT NOT NULL,
  prompt_tokens BIGINT NOT NULL CHECK (prompt_tokens >= 0),
  cached_tokens BIGINT NOT NULL CHECK (cached_tokens >= 0),
  completion_tokens BIGINT NOT NULL CHECK (completion_tokens >= 0),
  charged BIGINT NOT NULL CHECK (charged >= 0),
  absorbed BIGINT NOT NULL CHECK (absorbed >= 0),
  finish TEXT NOT NULL
);
CREATE INDEX request_usage_by_time ON request_usage (ended_at);
CREATE INDEX request_usage_of_team ON request_usage (team, ended_at);
CREATE INDEX request_usage_of_key ON request_usage (api_key, ended_at);
CREATE INDEX request_usage_of_model ON request_usage (model, ended_at);
CREATE TABLE key_limit (
  api_key TEXT PRIMARY KEY REFERENCES api_key (prefix),
  requests_per_minute BIGINT CHECK (requests_per_minute > 0),
  tokens_per_minute BIGINT CHECK (tokens_per_minute > 0),
  actor TEXT NOT NULL,
  at BIGINT NOT NULL
);
CREATE TABLE key_minute (
  api_key TEXT PRIMARY KEY,
  minute BIGINT NOT NULL,
  requests BIGINT NOT NULL,
  tokens BIGINT NOT NULL
);
CREATE INDEX transfer_paid ON transfer (debit, credit, amount) WHERE kind = 'post'
"""


def upgrade() -> None:
    """Add the tables; what is there stays as it is."""
    run = op.get_bind().exec_driver_sql
    for statement in TABLES.split(";\n"):
        run(statement)
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            run(
                f"CREATE TRIGGER request_usage_no_{verb.lower()} BEFORE {verb} ON request_usage "
                "BEGIN SELECT RAISE(ABORT, 'request_usage is append-only'); END"
            )
        return
    run(
        "CREATE TRIGGER request_usage_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON request_usage "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
