-- Ask for a call to be admitted.
--
-- KEYS, ARGV[1 .. 12]  see keys.lua
--
-- Returns {granted, view}: granted is the token of a probe, 0 when the breaker is closed, -1 when
-- the call is refused.
local c, now = breaker_config(), now_us()
local b = breaker_load(now)
local granted = breaker_admit(b, c, now)
breaker_save(b)
return {granted, breaker_view(b, c, now)}
