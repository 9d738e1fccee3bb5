# Explicit denies. They come before every permission, break-glass included, and name no
# exceptions: to let somebody in again, take the entry out of org/data.json.
package sark.authz

import rego.v1

explicit_deny := entry.reason if {
	entry := data.org.denies.users[input.user_id]
} else := entry.reason if {
	entry := data.org.denies.resources[input.resource]
} else := "service accounts may not administer" if {
	action.administers
	user.service
} else := "nobody grants to themselves" if {
	input.action == "user:grant"
	target.user == input.user_id
}
