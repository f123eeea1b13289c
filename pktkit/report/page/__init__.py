"""The parts of an HTML report: text is escaped, pictures are inline, nothing is fetched."""

from __future__ import annotations

from pktkit.report.page.document import Block, document, facts
from pktkit.report.page.sections import section_block

__all__ = ["Block", "document", "facts", "section_block"]
