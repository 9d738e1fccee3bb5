-- KEYS[1]  siem:refusals        name -> closing event without its last members
-- KEYS[2]  siem:refusals:count  name -> refusals so far
-- KEYS[3]  siem:refusals:due    names by the end of their window, in milliseconds
-- KEYS[4..] queue and account of each sink, in turns
--
-- refusals_room(size, max_events, max_bytes): whether every queue has room for one event.
--
-- refusals_close(name, id, time, max_events, max_bytes): end the record of one refused identity.
-- Appends one closing event with the count of repeats to all queues, if there were any. Returns
-- false when one has no room for it; the record then stays and is closed later.
--
-- Atomic because the count must reach each queue exactly once, whoever closes.
local function refusals_room(size, max_events, max_bytes)
  for i = 4, #KEYS, 2 do
    local room, left = siem_room(KEYS[i], KEYS[i + 1], max_events, max_bytes)
    if room < 1 or left < size then return false end
  end
  return true
end

local function refusals_close(name, id, time, max_events, max_bytes)
  local repeats = tonumber(server.call('HGET', KEYS[2], name) or 1) - 1
  local event = server.call('HGET', KEYS[1], name)
  if repeats > 0 and event then
    event = event .. ',"count":' .. repeats .. ',"id":"' .. id .. '","time":"' .. time .. '"}'
    if not refusals_room(#event, max_events, max_bytes) then return false end
    for i = 4, #KEYS, 2 do
      siem_append(KEYS[i], KEYS[i + 1], max_events, max_bytes, 'accepted', {event}, 1, 1)
    end
  end
  server.call('HDEL', KEYS[1], name)
  server.call('HDEL', KEYS[2], name)
  server.call('ZREM', KEYS[3], name)
  return true
end
