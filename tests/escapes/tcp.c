/* connect(2). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	DO(connect(DO(socket(FAMILY, SOCK_STREAM, 0)), TARGET, target_length));
}
