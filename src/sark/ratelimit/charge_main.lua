-- The charge alone: KEYS are the counters, ARGV their limits and windows.
return ratelimit_charge(1, #KEYS, 1)
