# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Reads a cloud-config and prints one "path=value" line for each scalar in it, so that a shell can pick out what it
# needs with sed:
#
#   {"users": [{"name": "vm"}], "hostname": "web1"}    ->   users.0.name=vm
#                                                           hostname=web1
#
# Understands the YAML that people write in such files: block mappings and sequences, flow style, and therefore JSON.
# Block scalars (| and >) are skipped; anchors, tags and multi-line plain scalars are not known.

{ sub(/\r$/, ""); line[++lines] = $0 }

END {
    depth = 0      # of the stack of open block collections: column[], sequence[], prefix[], count[]
    pending = ""   # path that the next nested collection or value belongs to
    text_column = -1
    for (at = 1; at <= lines; at++) read_line(line[at])
}

function read_line(text,    indent) {
    if (text ~ /^[ ]*(#|$)/ || text ~ /^(---|\.\.\.)/) return
    match(text, /^ */)
    indent = RLENGTH
    if (text_column >= 0 && indent > text_column) return
    text_column = -1
    read_node(substr(text, indent + 1), indent)
}

function read_node(text, indent,    key) {
    while (text == "-" || text ~ /^- /) {
        open_collection(indent, 1)
        pending = join(prefix[depth], count[depth]++)
        match(text, /^- */)
        indent += RLENGTH
        text = substr(text, RLENGTH + 1)
    }
    if (text ~ /^[\[{]/) { read_flow(text); return }
    if (match(text, /^("[^"]*"|'[^']*'|[A-Za-z0-9_.-]+) *:( |$)/)) {
        key = substr(text, 1, RLENGTH)
        text = substr(text, RLENGTH + 1)
        sub(/ *: ?$/, "", key)
        open_collection(indent, 0)
        pending = join(prefix[depth], unquote(key))
        sub(/^ +/, "", text)
        if (text ~ /^[\[{]/) { read_flow(text); return }
    }
    if (text ~ /^[|>]/) text_column = column[depth]
    else if (text != "" && text !~ /^#/) emit(pending, unquote(text))
}

# Makes the collection that a line at this column belongs to the innermost open one. A sequence may stand at the same
# column as the key that it belongs to.
function open_collection(indent, is_sequence) {
    while (depth && (column[depth] > indent || (column[depth] == indent && sequence[depth] && !is_sequence))) depth--
    if (depth && column[depth] == indent && sequence[depth] == is_sequence) return
    depth++
    column[depth] = indent
    sequence[depth] = is_sequence
    prefix[depth] = depth > 1 ? pending : ""
    count[depth] = 0
}

function read_flow(text) {
    rest = text
    read_flow_node(pending)
}

function read_flow_node(path,    index_, key) {
    if (!skip_blanks()) return
    if (rest ~ /^\[/) {
        rest = substr(rest, 2)
        for (index_ = 0; skip_blanks(); index_++) {
            if (rest ~ /^\]/) { rest = substr(rest, 2); return }
            read_flow_node(join(path, index_))
        }
    } else if (rest ~ /^\{/) {
        rest = substr(rest, 2)
        while (skip_blanks()) {
            if (rest ~ /^\}/) { rest = substr(rest, 2); return }
            key = flow_scalar("[:,}]")
            if (skip_blanks() && rest ~ /^:/) {
                rest = substr(rest, 2)
                read_flow_node(join(path, key))
            }
        }
    } else emit(path, flow_scalar("[],}]"))
}

# Skips white space, commas and ends of lines; false at the end of the text.
function skip_blanks() {
    for (;;) {
        sub(/^[ \t,]+/, "", rest)
        if (rest != "" && rest !~ /^#/) return 1
        if (at >= lines) return 0
        rest = line[++at]
    }
}

function flow_scalar(stop,    text) {
    if (rest ~ /^["']/) return quoted()
    if (!match(rest, stop)) RSTART = length(rest) + 1
    if (RSTART == 1) RSTART = 2   # a stray mark: always move on
    text = substr(rest, 1, RSTART - 1)
    rest = substr(rest, RSTART)
    sub(/ +$/, "", text)
    return text
}

# Takes a quoted scalar off the front of rest.
function quoted(    mark, text, next_) {
    mark = substr(rest, 1, 1)
    rest = substr(rest, 2)
    while (match(rest, mark == "\"" ? "[\"\\\\]" : "'")) {
        text = text substr(rest, 1, RSTART - 1)
        next_ = substr(rest, RSTART + 1, 1)
        if (substr(rest, RSTART, 1) == "\\") {
            text = text unescape(next_)
            rest = substr(rest, RSTART + (next_ == "u" ? 6 : 2))
        } else if (mark == "'" && next_ == "'") {
            text = text "'"
            rest = substr(rest, RSTART + 2)
        } else {
            rest = substr(rest, RSTART + 1)
            return text
        }
    }
    text = text rest
    rest = ""
    return text
}

# One line holds one value, so line breaks become spaces; characters given by number are not needed here.
function unescape(character) {
    if (character ~ /[nrt]/) return " "
    if (character == "u") return "?"
    return character
}

function unquote(text) {
    if (text ~ /^["']/) { rest = text; return quoted() }
    sub(/ +#.*$/, "", text)
    sub(/ +$/, "", text)
    return text
}

function join(path, name) { return path == "" ? name : path "." name }

function emit(path, value) {
    sub(/ +$/, "", value)
    if (value != "null") print path "=" value
}
