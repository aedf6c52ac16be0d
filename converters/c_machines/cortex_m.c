/* What runs before main on a bare Cortex-M: memory as C expects it, the floating-point unit on, standard output through semihosting. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern uint32_t data_load[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];
extern void initialise_monitor_handles(void);
extern int main(void);
void _init(void);
void _fini(void);

void _init(void) {}

void _fini(void) {}

void reset(void);

void reset(void) {
  *(volatile uint32_t*)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to coprocessors 10 and 11 */
  __asm__ volatile("dsb\nisb");
  memcpy(data_begin, data_load, (size_t)((char*)data_end - (char*)data_begin));
  memset(bss_begin, 0, (size_t)((char*)bss_end - (char*)bss_begin));
  initialise_monitor_handles();
  exit(main());
}

static void fault(void) {
  static const char text[] = "fault\n";
  register int operation __asm__("r0") = 4; /* SYS_WRITE0 */
  register const char* what __asm__("r1") = text;
  __asm__ volatile("bkpt 0xab" : "+r"(operation) : "r"(what) : "memory");
  exit(1);
}

__attribute__((section(".vectors"), used)) static void* const vectors[16] = {stack_top,    (void*)reset, (void*)fault, (void*)fault,
                                                                             (void*)fault, (void*)fault, (void*)fault};
