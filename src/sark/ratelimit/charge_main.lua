-- The charge alone: KEYS are the counters, ARGV the cost, their limits and windows.
return ratelimit_charge(1, #KEYS, 1)
