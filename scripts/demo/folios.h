/* SPDX-License-Identifier: GPL-2.0 */
/* What folios a page fault makes, for the programs of the demonstration. */
#ifndef FOLIOS_H
#define FOLIOS_H

#include <stdbool.h>
#include <stdio.h>

#define THP_SIZE_ENABLED \
	"/sys/kernel/mm/transparent_hugepage/hugepages-%lukB/enabled"

/* Faults make folios of @order from now on, and no others; 0 for pages alone. */
static inline bool choose_order(unsigned int order, unsigned long page_size)
{
	unsigned int i;
	char path[128];
	FILE *file;
	bool written;

	for (i = 2; i <= 9; i++) {
		snprintf(path, sizeof(path), THP_SIZE_ENABLED, (page_size << i) >> 10);
		file = fopen(path, "w");
		if (!file)
			return false;
		written = fputs(i == order ? "always" : "never", file) >= 0;
		if (fclose(file) || !written)
			return false;
	}
	return true;
}

#endif /* FOLIOS_H */
