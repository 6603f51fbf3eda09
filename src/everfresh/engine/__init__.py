"""Get or compute: joins stores, leases and changes; receipts, lineage, the audit."""
