-- KEYS[1] queue, KEYS[2] account; ARGV[1] most events, ARGV[2] most bytes, ARGV[3..] events.
return siem_append(KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV, 3, #ARGV)
