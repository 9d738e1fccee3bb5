"""What operators need: health, status, metrics, logs. Findings only; others render them."""
