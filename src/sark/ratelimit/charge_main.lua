-- The charge alone: KEYS are what is counted, ARGV as in ratelimit_charge.
return ratelimit_charge(1, #KEYS, 1)
