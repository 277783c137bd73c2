// SPDX-License-Identifier: GPL-2.0
/* file_migrate_user FILE: dirty pages of a shared mapping are to be on the disk after a migration. */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES	64
#define PAGE	4096

int main(int argc, char **argv)
{
	static char block[PAGE];
	unsigned long i, wrong = 0;
	char text[32], *memory;
	int fd, device;

	if (argc != 2)
		errx(2, "usage: file_migrate_user FILE");
	fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	device = open("/dev/file_migrate", O_WRONLY);
	if (fd < 0 || device < 0 || ftruncate(fd, PAGES * PAGE))
		err(2, "%s or /dev/file_migrate", argv[1]);
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		err(2, "mmap");
	/* On the disk once, so that folios have buffers, and dirty then. */
	memset(memory, 1, PAGES * PAGE);
	fsync(fd);
	for (i = 0; i < PAGES; i++)
		memset(memory + i * PAGE, i + 3, PAGE);
	snprintf(text, sizeof(text), "%lu", (unsigned long)memory);
	if (write(device, text, strlen(text)) < 0)
		err(2, "the migration failed");
	for (i = 0; i < PAGES; i++)
		wrong += memory[i * PAGE + 99] != (char)(i + 3);
	munmap(memory, PAGES * PAGE);
	if (fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
		err(2, "fsync");
	for (i = 0; i < PAGES; i++)
		wrong += pread(fd, block, PAGE, i * PAGE) != PAGE || block[77] != (char)(i + 3);
	printf("%s: %lu pages are wrong\n", argv[1], wrong);
	return wrong != 0;
}
