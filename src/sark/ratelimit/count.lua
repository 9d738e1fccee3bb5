-- ratelimit_count(stored): the whole number that a plain count is, or nil for anything else.
--
-- Only what INCRBY takes as well and Lua counts exactly: so nothing else passes for a count, and no
-- key is charged before another one turns out to be broken.
local function ratelimit_count(stored)
  if not string.find(stored, '^[1-9]%d*$') then return stored == '0' and 0 or nil end
  local count = stored + 0
  return count < 9007199254740992 and count or nil
end
