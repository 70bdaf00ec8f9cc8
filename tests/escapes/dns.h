/* A question (RFC 1035, 4.1) that says something: the marker, below a name in the form of the wire,
 * without the root. */
#include "escape.h"
__attribute__((unused)) static size_t question(uint8_t *out, const char *below) {
	const uint8_t head[12] = { 0, 1, 1, 0, 0, 1 }, tail[5] = { 0, 0, 16, 0, 1 };
	size_t length = strlen(marker), at = sizeof head;
	memcpy(out, head, sizeof head);
	out[at++] = length;
	memcpy(out + at, marker, length);
	at += length;
	memcpy(out + at, below, strlen(below));
	at += strlen(below);
	memcpy(out + at, tail, sizeof tail);
	return at + sizeof tail;
}
