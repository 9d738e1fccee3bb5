# Reading the request: is it well formed, and what do its names stand for?
#
# Everything in `input` comes from outside. A builtin that is handed the wrong type is an error
# in some engines and undefined in others, so malformed requests are denied before anything else.
# Still, a rule that hands a part of the input to a builtin checks its type itself: an engine may
# evaluate rules of which the decision makes no use.
package sark.authz

import rego.v1

# The context fields that this policy reads. All are optional; others are ignored.
context_types := {
	"break_glass": "boolean", # claims emergency access
	"environment": "string", # where a tool is to act; for a server, a cross-check
	"mfa": "boolean", # the user has just proved a second factor
	"ticket": "string", # the incident behind break-glass
}

well_formed if {
	is_string(input.user_id)
	is_string(input.action)
	is_string(input.resource)
	is_object(input.context)
	not has_ill_typed_field
}

has_ill_typed_field if {
	some field, value in input.context
	type_name(value) != context_types[field]
}

malformed := "malformed context" if {
	is_string(input.user_id)
	is_string(input.action)
	is_string(input.resource)
} else := "malformed request"

unknown := "unknown user" if not user

else := "unknown action" if not action

else := "unknown resource" if not target

else := "unknown environment" if {
	input.context.environment
	not input.context.environment in data.org.environments
}

else := "environment does not match the server" if input.context.environment != target.environment

user := data.org.directory.users[input.user_id]

action := data.org.actions[input.action]

# Resources are found by their whole name, such as "server/web-017".
target := resource if {
	resource := data.org.directory.resources[input.resource]
	resource.kind == action.on
}

# A server's environment is a fact of the directory. A tool acts where the context says, and in
# production when it says nothing.
environment := target.environment if target.environment

else := input.context.environment if input.context.environment

else := "production"
