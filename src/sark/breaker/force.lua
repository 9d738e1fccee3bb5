-- Put a breaker into a state by hand.
--
-- KEYS, ARGV[1 .. 12]  see keys.lua
-- ARGV[13]             open or closed: hold it there; reset: close it, and forget
-- ARGV[14]             microseconds after which it is no longer held; 0: never
--
-- Returns the view.
local c, now = breaker_config(), now_us()
local b = breaker_load(now)
local span = tonumber(ARGV[14])
if ARGV[13] == 'reset' then
  breaker_reset(b, now)
else
  breaker_force(b, now, ARGV[13], span > 0 and now + span or 0)
end
breaker_save(b)
return breaker_view(b, c, now)
