/* Takes all descriptors it may have, in as many processes as it is told, says how
 * many those are in each, and keeps them until it is killed. Not a test by itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words)
{
	int processes = count > 1 ? atoi(words[1]) : 1;

	for (int number = 0; number < processes; number++) {
		int files = 3;

		if (number < processes - 1 && fork() > 0)
			continue;
		/* Each is a file of its own, not a second name for one. */
		while (open("/dev/null", O_RDONLY) >= 0)
			files++;
		dprintf(1, "%d %s\n", files, strerrorname_np(errno));
		for (;;)
			pause();
	}
}
