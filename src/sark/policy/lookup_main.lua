-- The lookup alone: KEYS as in policy_lookup from 1, ARGV = nonce, life of a user's token in ms.
return policy_lookup(1, ARGV[1], tonumber(ARGV[2]))
