" When a file is a configuration of condor-gateway: by its name, or by a comment in its first ten lines.
autocmd BufNewFile,BufRead gateway.cfg,*/condor-gateway/*.cfg set filetype=condorgateway
autocmd BufRead *.cfg if getline(1, 10)->join()->match('^\s*#.*condor-gateway') >= 0
      \ | set filetype=condorgateway | endif
