-- Dead letters: {"reason":...,"kind":...,"time":...,"event":<the event as it was>}.
--
-- siem_bury(failed, account, max_events, max_bytes, letters, events): append dead letters while
-- there is room and book the bytes of their events; letters[i] is the head of the entry of
-- events[i], up to the event. The last one may go beyond the bytes: an event that just doesn't fit
-- would otherwise be leased and refused without end. Returns how many became dead letters: the
-- first so many.
--
-- siem_letter_event(entry): the event of an entry. The first `,"event":` is the one that the head
-- ends with, because quotes inside the strings before it are escaped.
local function siem_bury(failed, account, max_events, max_bytes, letters, events)
  local room = max_events - server.call('LLEN', failed)
  local left = max_bytes - tonumber(server.call('HGET', account, 'failed_bytes') or 0)
  local entries, bytes = {}, 0
  for i, event in ipairs(events) do
    if i > room or bytes >= left then break end
    entries[i], bytes = letters[i] .. event .. '}', bytes + #event
  end
  if #entries > 0 then
    siem_push(failed, entries, 1, #entries)
    server.call('HINCRBY', account, 'failed_bytes', bytes)
  end
  return #entries
end

local function siem_letter_event(entry)
  local _, last = string.find(entry, ',"event":', 1, true)
  return string.sub(entry, last + 1, -2)
end
