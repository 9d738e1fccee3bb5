-- refusals_close(name, id, time, max_events, max_bytes): end the record of one refused identity.
--
-- KEYS[1]  siem:refusals        name -> closing event without its last members
-- KEYS[2]  siem:refusals:count  name -> refusals so far
-- KEYS[3]  siem:refusals:due    names by the end of their window, in milliseconds
-- KEYS[4]  queue
-- KEYS[5]  account
--
-- Appends one closing event with the count of repeats, if there were any. Returns false when the
-- queue has no room for it; the record then stays and is closed later.
--
-- Atomic because the count must reach the queue exactly once, whoever closes.
local function refusals_close(name, id, time, max_events, max_bytes)
  local repeats = tonumber(server.call('HGET', KEYS[2], name) or 1) - 1
  local event = server.call('HGET', KEYS[1], name)
  if repeats > 0 and event then
    event = event .. ',"count":' .. repeats .. ',"id":"' .. id .. '","time":"' .. time .. '"}'
    if siem_append(KEYS[4], KEYS[5], max_events, max_bytes, {event}, 1, 1) == 0 then
      return false
    end
  end
  server.call('HDEL', KEYS[1], name)
  server.call('HDEL', KEYS[2], name)
  server.call('ZREM', KEYS[3], name)
  return true
end
