"""Problems (RFC 9457) as the errors they were."""

from __future__ import annotations

import json

from cerulea.core.errors import CeruleaError, Failed
from cerulea.core.restoring import restore


def error_of(status: int, content: bytes) -> CeruleaError:
    """The error that a problem body tells of, or one of OpenAI's shape; Failed for an answer that is none."""
    try:
        values = json.loads(content)
        if "error" in values:
            return restore({"code": Failed.code, "what": str(values["error"]["message"])})
        code, what = str(values["code"]), str(values["detail"])
    except (ValueError, KeyError, TypeError):
        return Failed(f"The platform answers {status}: {content[:200].decode('utf-8', 'replace')}")
    return restore({"code": code, "what": what, "why": values.get("why", ""), "fix": values.get("fix", "")})
