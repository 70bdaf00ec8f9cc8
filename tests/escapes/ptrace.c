/* A process of the same user outside, made to do what it would not (ptrace(2)). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	pid_t other = atoi(setting("DEPUTY_PID"));
	char *cell = (char *)strtoul(setting("DEPUTY_CELL"), NULL, 16);
	DO(ptrace(PTRACE_ATTACH, other, NULL, NULL));
	DO(waitpid(other, NULL, 0));
	char text[64] = "";
	strcpy(text, marker);
	/* The first word last: with it the deputy sees the rest. */
	for (int at = 56; at >= 0; at -= 8)
		DO(ptrace(PTRACE_POKEDATA, other, cell + at, *(long *)(text + at)));
	DO(ptrace(PTRACE_DETACH, other, NULL, NULL));
	usleep(300000);
}
