-- The check alone: KEYS and ARGV as in session_check.
return session_check(1, 1)
