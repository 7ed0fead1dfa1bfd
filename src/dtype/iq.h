/* iq.h - inside of this room: the vectors of the IQ types, and how far their codes reach. */
#ifndef ST_DTYPE_IQ_H
#define ST_DTYPE_IQ_H

#include <stdint.h>

extern const uint16_t st_iq2_xxs_grid[256], st_iq2_xs_grid[512], st_iq2_s_grid[1024];
extern const uint16_t st_iq3_xxs_grid[256], st_iq3_s_grid[512];
extern const uint16_t st_iq1_grid[2048];

/*
 * The step of each sub-block of a block: what the magnitudes of the grid are multiplied by, as the decoder does. `sub`
 * elements share one; returns how many there are, at most 16.
 */
unsigned st_iq2_xxs_steps(const void *block, float step[16]);
unsigned st_iq2_xs_steps(const void *block, float step[16]);
unsigned st_iq2_s_steps(const void *block, float step[16]);
unsigned st_iq3_xxs_steps(const void *block, float step[16]);
unsigned st_iq3_s_steps(const void *block, float step[16]);
unsigned st_iq1_s_steps(const void *block, float step[16]);
unsigned st_iq1_m_steps(const void *block, float step[16]);

#endif
