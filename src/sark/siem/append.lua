-- siem_append(queue, account, max_events, max_bytes, events, first, last): append events to the
-- queue while there is room, in order, and book them.
--
-- queue, account        key names, declared by the caller
-- events[first .. last] JSON events, at most 1,000 (Lua's argument lists are bounded)
--
-- Returns how many were accepted: the first so many.
--
-- Atomic because the bound must hold whoever else appends, and the account must agree with the
-- queue at every moment.
local function siem_append(queue, account, max_events, max_bytes, events, first, last)
  local room = max_events - server.call('LLEN', queue)
  local held = tonumber(server.call('HGET', account, 'queued_bytes') or 0)
  local accepted, bytes = 0, 0
  for i = first, last do
    local size = #events[i]
    if accepted >= room or held + bytes + size > max_bytes then break end
    accepted, bytes = accepted + 1, bytes + size
  end
  if accepted > 0 then
    server.call('RPUSH', queue, unpack(events, first, first + accepted - 1))
    server.call('HINCRBY', account, 'accepted', accepted)
    server.call('HINCRBY', account, 'queued_bytes', bytes)
  end
  return accepted
end
