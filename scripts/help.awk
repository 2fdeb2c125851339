# Prints the targets ("name: ... ## text"), section titles ("## text") and the variables
# ("# NAME  text", and lines that go on), wrapped to 80 columns.
function show(name, text,    words, count, i, line) {
  line = sprintf("  %-17s", name)
  count = split(text, words, " ")
  for (i = 1; i <= count; i++) {
    if (length(line) + 1 + length(words[i]) > 80) { print line; line = sprintf("%19s", "") }
    line = line " " words[i]
  }
  print line
}
function show_variable() { if (name != "") show(name, text); name = "" }

/^## / { show_variable(); sub(/^## /, ""); printf "%s%s\n", (seen++ ? "\n" : ""), $0; variables = /^Variables/; next }
variables && match($0, /^# [A-Z][A-Z_]*(, [A-Z][A-Z_]*)* +/) {
  show_variable()
  name = substr($0, 3, RLENGTH - 2); sub(/ +$/, "", name)
  text = substr($0, RLENGTH + 1)
  next
}
variables && /^#  / { text = text substr($0, 2); next }
/^[a-z-]+:.*## / {
  if (!seen++) print "make TARGET [NAME=value ...]"
  target = $0; sub(/:.*/, "", target)
  help = $0; sub(/.*## /, "", help)
  show(target, help)
}
END { show_variable() }
