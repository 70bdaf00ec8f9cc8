/* A proxy of its own choice, asked for a tunnel. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	set_port(3128);
	DO(connect(DO(socket(FAMILY, SOCK_STREAM, 0)), TARGET, target_length));
}
