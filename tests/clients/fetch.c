/* A client with musl's resolver: connects to HOST PORT and copies the answer to a line to standard
 * output. Ends with 2 when the name has no address, with 3 when none of its addresses answers. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
	char buffer[4096];
	ssize_t length;

	if (argc != 4)
		return 64;
	int error = getaddrinfo(argv[1], argv[2], &hints, &found);
	if (error) {
		fprintf(stderr, "%s: %s\n", argv[1], gai_strerror(error));
		return 2;
	}
	for (; found; found = found->ai_next) {
		int fd = socket(found->ai_family, found->ai_socktype, 0);
		if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen)) {
			perror(argv[1]);
			continue;
		}
		if (write(fd, argv[3], strlen(argv[3])) < 0 || shutdown(fd, SHUT_WR))
			perror("write");
		while ((length = read(fd, buffer, sizeof buffer)) > 0)
			fwrite(buffer, 1, length, stdout);
		return 0;
	}
	return 3;
}
