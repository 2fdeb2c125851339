# Prints the targets ("name: ... ## text"), section titles ("## text") and the variables.
/^## / { sub(/^## /, ""); printf "%s%s\n", (seen++ ? "\n" : ""), $0; variables = /^Variables/; next }
variables && /^# / { sub(/^# /, "  "); print; next }
/^[a-z-]+:.*## / {
  name = $0; sub(/:.*/, "", name)
  text = $0; sub(/.*## /, "", text)
  if (!seen++) print "make TARGET [NAME=value ...]"
  printf "  %-14s %s\n", name, text
}
